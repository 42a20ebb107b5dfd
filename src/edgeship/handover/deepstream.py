"""DeepStream's primary detector, classifier or segmenter: its configuration, labels, and a parser where one is needed.

NVIDIA documents the formula of Gst-nvinfer as y = net-scale-factor · (x − mean), one factor for all channels and one
mean for each. Ours is (x · scale − mean) / std, so the factor is scale / std and its mean is mean / scale. Where std
differs from channel to channel, the convolution that reads the image takes up the difference.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeship.config import Parity
from edgeship.errors import DataError, ParityError
from edgeship.handover.cpp_library import library, settings_of
from edgeship.handover.source import Source, quoted
from edgeship.prepare.fold_std import REMEDY, fold_std
from edgeship.prepare.graph import data_of, load_onnx, outputs_of, save_onnx
from edgeship.prepare.running import Running

COLORS = {"rgb": 0, "bgr": 1, "gray": 2}
TASKS = {"detection": 0, "classification": 1, "segmentation": 2}
MODES = {"fp32": 0, "int8": 1, "int8-fp32": 1, "int8-fp16": 1, "implicit": 1, "fp16": 2}
PARSER = """// DeepStream's parser for this network's head: edgeship's own decoding, in the input's pixels.
//   g++ -std=c++17 -O2 -ffp-contract=off -shared -fPIC parser.cpp -o libedgeship_parser.so
//       -Iinclude -I/opt/nvidia/deepstream/deepstream/sources/includes

#include <string>
#include <vector>

#include "edgeship/decode.hpp"
#include "edgeship/settings.hpp"
#include "nvdsinfer_custom_impl.h"

extern "C" bool NvDsInferParseEdgeship(std::vector<NvDsInferLayerInfo> const& layers,
                                       NvDsInferNetworkInfo const& network,
                                       NvDsInferParseDetectionParams const& params,
                                       std::vector<NvDsInferObjectDetectionInfo>& objects) {
    for (NvDsInferLayerInfo const& layer : layers) {
        if (layer.layerName == nullptr || std::string(layer.layerName) != @OUTPUT@) continue;
        // The input itself stands for the image: DeepStream moves boxes back to the frame.
        const int height = static_cast<int>(network.height), width = static_cast<int>(network.width);
        const edgeship::Geometry geometry{height, width, height, width, 1.0, 1.0, 0.0, 0.0};
        const std::size_t rows = layer.inferDims.d[@ROWS@];
        for (edgeship::Box const& box : edgeship::decode(static_cast<const float*>(layer.buffer), rows, geometry)) {
            const auto label = static_cast<unsigned>(box.label);
            if (label >= params.numClassesConfigured || box.score < params.perClassPreclusterThreshold[label]) continue;
            NvDsInferObjectDetectionInfo object{};
            object.classId = label;
            object.left = box.x1, object.top = box.y1;
            object.width = box.x2 - box.x1, object.height = box.y2 - box.y1;
            object.detectionConfidence = box.score;
            objects.push_back(object);
        }
        return true;
    }
    return false;
}
"""


def files(source: Source) -> tuple[dict[str, bytes], list[str]]:
    """The configuration and its files.

    Raises:
        DataError: What DeepStream cannot express.
        ModelError: A std for each channel that cannot be folded into the graph.
        ParityError: The folded graph answers otherwise.
    """
    manifest, evaluation = source.manifest, source.evaluation
    if evaluation.task not in TASKS:
        raise DataError(
            f"Gst-nvinfer has no network type for the task {evaluation.task!r}",
            expected=", ".join(TASKS),
            do="read the raw tensors (output-tensor-meta=1) in your own probe",
        )
    if not manifest.classes:
        raise DataError("the bundle names no classes, and DeepStream needs labels", do="set evaluation.classes")
    _require_expressible(source)
    _require_plain(source.output.name)
    height, width = source.size
    network = _network(source)
    made, notes = dict(network.files), list(network.notes)
    keys: dict[str, object] = {
        "gpu-id": 0,
        **_pixels(source, network.std),
        "infer-dims": ";".join(map(str, _dims(source, height, width))),
        "batch-size": source.batch,
        "network-mode": MODES.get(manifest.candidate.precision, 0),
        "network-type": TASKS[evaluation.task],
        "num-detected-classes": len(manifest.classes),
        "labelfile-path": "labels.txt",
        "gie-unique-id": 1,
        "process-mode": 1,
        **({"model-engine-file": "model.engine"} if "model.engine" in made else {"onnx-file": "model.onnx"}),
    }
    if evaluation.task == "detection":
        made |= _parser(source, keys)
        keys["cluster-mode"] = 4
        attributes = {"pre-cluster-threshold": evaluation.operating_confidence}
    elif evaluation.task == "classification":
        keys |= {"classifier-threshold": 0.0, "output-blob-names": source.output.name}
        attributes = {}
    else:
        keys |= {"segmentation-output-order": 0, "output-blob-names": source.output.name}
        attributes = {"pre-cluster-threshold": 0.0}
    lines = ["[property]", *(f"{key}={value}" for key, value in keys.items())]
    if attributes:
        lines += ["", "[class-attrs-all]", *(f"{key}={value}" for key, value in attributes.items())]
    made["config_infer_primary.txt"] = ("\n".join(lines) + "\n").encode()
    separator = ";" if evaluation.task == "classification" else "\n"
    made["labels.txt"] = source.labels(separator)
    notes.append(
        "DeepStream resizes on the GPU with its own bilinear filter, which does not widen where the image shrinks as "
        'Pillow\'s does; preprocess.interpolation = "opencv-bilinear" does not either. Judge its answers on recorded '
        "frames before you trust them"
    )
    return made, notes


@dataclass(frozen=True)
class _Network:
    """What DeepStream runs: its files, the one std that their input is divided by, and what to know about them."""

    files: dict[str, bytes]
    std: float
    notes: list[str]


def _pixels(source: Source, std: float) -> dict[str, object]:
    """Scale, offsets, colour, letterbox, for a network whose input is divided by ``std``."""
    steps = source.steps
    channels = 1 if steps.color == "gray" else 3
    means = steps.mean * channels if len(steps.mean) == 1 else steps.mean
    return {
        "net-scale-factor": repr(steps.scale / std),
        "offsets": ";".join(repr(value / steps.scale) for value in means),
        "model-color-format": COLORS[steps.color],
        "maintain-aspect-ratio": int(steps.fit == "letterbox"),
        "symmetric-padding": int(steps.fit == "letterbox" and steps.pad_align == "center"),
        "scaling-filter": 1,
        "network-input-order": int(steps.layout == "nhwc"),
    }


def _require_expressible(source: Source) -> None:
    """Refuse preprocessing that Gst-nvinfer does not do. Raises DataError."""
    steps = source.steps
    if steps.fit == "center-crop":
        raise DataError(
            'preprocess.fit is "center-crop", and Gst-nvinfer crops nothing',
            expected='fit = "stretch" or "letterbox"',
            do="evaluate and ship with one of these, or crop upstream (nvvideoconvert src-crop) and ship with stretch",
        )
    if steps.fit == "letterbox" and round(steps.pad_value) != 0:
        raise DataError(
            f"preprocess.pad_value is {steps.pad_value:g}, and DeepStream pads with black",
            expected="pad_value = 0",
            do="evaluate with pad_value = 0 and ship again: the difference is then measured, not hoped for",
        )
    if steps.dtype != "float32":
        raise DataError(
            f"preprocess.dtype is {steps.dtype}, and DeepStream prepares float32", do="ship a float32 input"
        )


def _require_plain(name: str) -> None:
    """Refuse a name that the configuration would read as two, or as another key. Raises DataError."""
    if not name.isprintable() or {";", "\\"} & set(name) or name != name.strip():
        raise DataError(
            f"the output is called {name!r}, and output-blob-names separates names by ';' and escapes by '\\'",
            expected="printable characters without ';' and '\\' and without spaces at the ends",
            do="rename the output in the model and ship again",
        )


def _dims(source: Source, height: int, width: int) -> tuple[int, int, int]:
    channels = 1 if source.steps.color == "gray" else 3
    return (channels, height, width) if source.steps.layout == "nchw" else (height, width, channels)


def _network(source: Source) -> _Network:
    """The engine that was judged, or the FP32 graph with a std for each channel folded in.

    Raises:
        DataError: An engine that DeepStream does not run, or a plan, whose weights nobody can change.
        ModelError: The graph does not begin with a convolution.
        ParityError: The folded graph answers otherwise.
    """
    manifest, std = source.manifest, tuple(dict.fromkeys(source.steps.std))
    if manifest.identity.engine == "tensorrt":
        if len(std) > 1:
            raise DataError(
                f"preprocess.std is {list(std)}: one a channel, DeepStream has one net-scale-factor for all, and the "
                "weights of a built engine cannot be changed",
                expected="one std for all channels",
                do=f"{REMEDY}; or hand an fp32 bundle of onnxruntime over, whose model.onnx then holds the division, "
                "and ship that file with the one std that its note names",
            )
        return _Network({"model.engine": source.content(manifest.engine)}, std[0], [])
    if manifest.candidate.precision != "fp32":
        raise DataError(
            f"the bundle's engine is {manifest.identity.engine}'s in {manifest.candidate.precision}, and DeepStream "
            "runs TensorRT",
            expected='a bundle of engine = "tensorrt", or one in fp32 whose ONNX DeepStream builds itself',
            do='ship with engine = "tensorrt" on the device',
        )
    note = (
        f"the bundle was judged on {manifest.identity.engine}; DeepStream builds an engine of its own from model.onnx, "
        'which nobody has judged: ship with engine = "tensorrt" on the device before you trust it'
    )
    if len(std) > 1:
        return _folded(source, note)
    path = source.folder / manifest.model
    return _Network(_stored(path), std[0], [note])


def _stored(path: Path) -> dict[str, bytes]:
    """An ONNX file as ``model.onnx``, with its weights where they lie beside it."""
    found = {"model.onnx": path.read_bytes()}
    return found | ({"model.onnx.data": data_of(path).read_bytes()} if data_of(path).is_file() else {})


def _folded(source: Source, note: str) -> _Network:
    """The FP32 graph with the std of each channel in its first convolutions, compared on the bundle's known frames."""
    known = source.known_frames()
    if not known:
        raise DataError(
            "the bundle holds no known frames, on which a graph with its std folded in could be compared", do=REMEDY
        )
    path = source.folder / source.manifest.model
    model = load_onnx(path)
    made, kept, nodes = fold_std(model, source.steps.std)
    frames = known[source.image.name]
    scaled = frames * (np.array(source.steps.std) / kept).reshape(-1, 1, 1)
    names, limits = [info.name for info in outputs_of(model)], Parity()
    wanted = Running(model).run(names, {source.image.name: frames})
    found = Running(made).run(names, {source.image.name: scaled.astype(np.float32)})
    pairs = [(one.astype(np.float64), other.astype(np.float64)) for one, other in zip(wanted, found, strict=True)]
    off = max(float(np.abs(one - other).max()) for one, other in pairs)
    if not all(np.allclose(other, one, rtol=limits.rtol, atol=limits.atol) for one, other in pairs):
        raise ParityError(
            f"with std folded into {', '.join(nodes)} outputs differ by up to {off:.3g} on {len(frames)} known frames",
            expected=f"every value within atol {limits.atol:g} + rtol {limits.rtol:g}",
            do=REMEDY,
        )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.onnx"
        save_onnx(made, place)
        files = _stored(place)
    said = (
        f"std {list(source.steps.std)} is folded into {', '.join(nodes)} of model.onnx, which takes std = [{kept!r}]; "
        f"on the bundle's known frames ({len(frames)}) outputs differ by at most {off:.2g}"
    )
    return _Network(files, kept, [said, note])


def _parser(source: Source, keys: dict[str, object]) -> dict[str, bytes]:
    """The parser's source beside the library that it includes."""
    settings = settings_of(source)
    rows = 1 if source.evaluation.decoder == "ultralytics" else 0
    text = PARSER.replace("@OUTPUT@", quoted(source.output.name)).replace("@ROWS@", str(rows))
    keys |= {
        "output-blob-names": source.output.name,
        "parse-bbox-func-name": "NvDsInferParseEdgeship",
        "custom-lib-path": "libedgeship_parser.so",
    }
    headers = {name: content for name, content in library().items() if name.startswith("include/")}
    return headers | {"parser.cpp": text.encode(), "include/edgeship/settings.hpp": settings}
