"""DeepStream's primary detector, classifier or segmenter: its configuration, labels, and a parser where one is needed.

NVIDIA documents the formula of Gst-nvinfer as y = net-scale-factor · (x − mean), one factor for all channels and one
mean for each. Ours is (x · scale − mean) / std, so the factor is scale / std and its mean is mean / scale.
"""

from __future__ import annotations

from edgeship.errors import DataError
from edgeship.handover.cpp_library import library, settings_of
from edgeship.handover.source import Source

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
        if (layer.layerName == nullptr || std::string(layer.layerName) != "@OUTPUT@") continue;
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
    """The configuration and its files. Raises DataError for what DeepStream cannot express."""
    manifest, evaluation = source.manifest, source.evaluation
    if evaluation.task not in TASKS:
        raise DataError(
            f"Gst-nvinfer has no network type for the task {evaluation.task!r}",
            expected=", ".join(TASKS),
            do="read the raw tensors (output-tensor-meta=1) in your own probe",
        )
    if not manifest.classes:
        raise DataError("the bundle names no classes, and DeepStream needs labels", do="set evaluation.classes")
    height, width = source.size
    keys: dict[str, object] = {
        "gpu-id": 0,
        **_pixels(source),
        "infer-dims": ";".join(map(str, _dims(source, height, width))),
        "batch-size": source.batch,
        "network-mode": MODES.get(manifest.candidate.precision, 0),
        "network-type": TASKS[evaluation.task],
        "num-detected-classes": len(manifest.classes),
        "labelfile-path": "labels.txt",
        "gie-unique-id": 1,
        "process-mode": 1,
    }
    made, notes = _engine(source, keys)
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
    made["labels.txt"] = (separator.join(manifest.classes) + "\n").encode()
    notes.append(
        "DeepStream resizes on the GPU with its own bilinear filter, which does not widen where the image shrinks as "
        'Pillow\'s does; preprocess.interpolation = "opencv-bilinear" does not either. Judge its answers on recorded '
        "frames before you trust them"
    )
    return made, notes


def _pixels(source: Source) -> dict[str, object]:
    """Scale, offsets, colour, letterbox. Raises DataError for what the formula cannot express."""
    steps = source.steps
    factors = {steps.scale / value for value in steps.std}
    if len(factors) != 1:
        raise DataError(
            f"preprocess.std is {list(steps.std)}: one a channel, and DeepStream has one net-scale-factor for all",
            expected="one std for all channels",
            do="fold the division into the model (divide the first convolution's weights by std, channel by channel), "
            "check it with edgeship parity, set one std, and ship again",
        )
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
    channels = 1 if steps.color == "gray" else 3
    means = steps.mean * channels if len(steps.mean) == 1 else steps.mean
    return {
        "net-scale-factor": repr(factors.pop()),
        "offsets": ";".join(repr(value / steps.scale) for value in means),
        "model-color-format": COLORS[steps.color],
        "maintain-aspect-ratio": int(steps.fit == "letterbox"),
        "symmetric-padding": int(steps.fit == "letterbox" and steps.pad_align == "center"),
        "scaling-filter": 1,
        "network-input-order": int(steps.layout == "nhwc"),
    }


def _dims(source: Source, height: int, width: int) -> tuple[int, int, int]:
    channels = 1 if source.steps.color == "gray" else 3
    return (channels, height, width) if source.steps.layout == "nchw" else (height, width, channels)


def _engine(source: Source, keys: dict[str, object]) -> tuple[dict[str, bytes], list[str]]:
    manifest = source.manifest
    if manifest.identity.engine == "tensorrt":
        keys["model-engine-file"] = "model.engine"
        return {"model.engine": source.content(manifest.engine)}, []
    if manifest.candidate.precision != "fp32":
        raise DataError(
            f"the bundle's engine is {manifest.identity.engine}'s in {manifest.candidate.precision}, and DeepStream "
            "runs TensorRT",
            expected='a bundle of engine = "tensorrt", or one in fp32 whose ONNX DeepStream builds itself',
            do='ship with engine = "tensorrt" on the device',
        )
    keys["onnx-file"] = "model.onnx"
    note = (
        f"the bundle was judged on {manifest.identity.engine}; DeepStream builds an engine of its own from model.onnx, "
        'which nobody has judged: ship with engine = "tensorrt" on the device before you trust it'
    )
    return {"model.onnx": source.content(manifest.model)}, [note]


def _parser(source: Source, keys: dict[str, object]) -> dict[str, bytes]:
    """The parser's source beside the library that it includes."""
    settings = settings_of(source)
    rows = 1 if source.evaluation.decoder == "ultralytics" else 0
    text = PARSER.replace("@OUTPUT@", source.output.name).replace("@ROWS@", str(rows))
    keys |= {
        "output-blob-names": source.output.name,
        "parse-bbox-func-name": "NvDsInferParseEdgeship",
        "custom-lib-path": "libedgeship_parser.so",
    }
    headers = {name: content for name, content in library().items() if name.startswith("include/")}
    return headers | {"parser.cpp": text.encode(), "include/edgeship/settings.hpp": settings}
