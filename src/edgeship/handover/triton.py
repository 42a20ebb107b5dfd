"""A Triton model repository: the engine, its configuration with warm-up, and preprocessing by the Python backend."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from edgeship.data.preprocess import input_shape
from edgeship.errors import DataError
from edgeship.handover.source import Source, quoted
from edgeship.results import TensorInfo

PLATFORMS = {"onnxruntime": ("onnxruntime_onnx", "model.onnx"), "tensorrt": ("tensorrt_plan", "model.plan")}
TYPES = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "float64": "TYPE_FP64", "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64", "bool": "TYPE_BOOL",
    "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32", "uint64": "TYPE_UINT64",
}  # fmt: skip
IMAGE = "IMAGE"
MODEL = '''"""An encoded image to the network's input, by edgeship's own preprocessing (pip install edgeship)."""

import json
from pathlib import Path

import numpy as np
from edgeship.config import Preprocess
from edgeship.data.preprocess import apply, open_picture

SETTINGS = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
STEPS = Preprocess.model_validate(SETTINGS["preprocess"])


def prepare(content: bytes) -> np.ndarray:
    """One encoded image, or raw dump of the declared layout: the input without the batch axis."""
    return apply(open_picture(content, STEPS), STEPS, tuple(SETTINGS["size"]))[0]


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def execute(self, requests):
        import triton_python_backend_utils as utils

        answers = []
        for request in requests:
            images = utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)
            made = np.stack([prepare(bytes(image)) for image in images])
            answers.append(utils.InferenceResponse([utils.Tensor(SETTINGS["input"], made)]))
        return answers
'''


def files(source: Source) -> tuple[dict[str, bytes], list[str]]:
    """The repository. Raises DataError for an engine or an axis that Triton cannot be told."""
    manifest = source.manifest
    known = PLATFORMS.get(manifest.identity.engine)
    if known is None:
        raise DataError(
            f"Triton has no backend that opens this engine as it was judged ({manifest.identity.engine})",
            expected="a bundle of onnxruntime or tensorrt",
            do="ship with one of these engines on this target",
        )
    platform, file = known
    name = source.name
    made = {f"{name}/1/{file}": source.content(manifest.engine)}
    warm, raw = _warm_up(source)
    made |= {f"{name}/warmup/{file}": data for file, data in raw.items()}
    made[f"{name}/config.pbtxt"] = _text(_engine(source, name, platform, file), warm)
    notes = [f"give tritonserver this folder as its model repository; the engine is for {_built(source)}"]
    if manifest.preprocess is not None and len(manifest.inputs) == 1 and _dynamic_first(manifest.inputs[0]):
        made |= _ensemble(source, name)
        notes.append(f"{name}_from_image takes an encoded image; its preprocessing needs edgeship in Triton's Python")
    if manifest.classes:
        made[f"{name}/labels.txt"] = source.labels()
    return made, notes


def _built(source: Source) -> str:
    return f"{source.manifest.identity.engine} {source.manifest.identity.version}"


def _dynamic_first(info: TensorInfo) -> bool:
    return bool(info.shape) and isinstance(info.shape[0], str)


def _batched(source: Source) -> bool:
    """Whether Triton may batch: every input has a dynamic first axis."""
    return all(_dynamic_first(info) for info in source.manifest.inputs)


def _engine(source: Source, name: str, platform: str, file: str) -> Iterator[str]:
    manifest = source.manifest
    low, high = manifest.batch_range
    batched = _batched(source)
    yield f"name: {quoted(name)}"
    yield f"platform: {quoted(platform)}"
    yield f"default_model_filename: {quoted(file)}"
    yield f"max_batch_size: {high if batched else 0}"
    yield from _tensors("input", manifest.inputs, source, batched)
    yield from _tensors("output", manifest.outputs, source, batched)
    if batched and high > low:
        yield f"dynamic_batching {{ preferred_batch_size: [ {source.batch} ] max_queue_delay_microseconds: 0 }}"
    device = manifest.target.device
    index = device.partition(":")[2] or "0"
    where = f"kind: KIND_GPU gpus: [ {index} ]" if device.startswith("cuda") else "kind: KIND_CPU"
    yield f"instance_group [ {{ count: 1 {where} }} ]"


def _tensors(kind: str, tensors: Sequence[TensorInfo], source: Source, batched: bool) -> Iterator[str]:
    for info in tensors:
        if info.dtype not in TYPES:
            raise DataError(f"Triton has no type for {info.name!r}, {info.dtype}", expected=", ".join(TYPES))
        dims = _dims(info, source, required=kind == "input")[1 if batched else 0 :] or [1]
        yield (
            f"{kind} [ {{ name: {quoted(info.name)} data_type: {TYPES[info.dtype]} "
            f"dims: [ {', '.join(map(str, dims))} ] }} ]"
        )


def _dims(info: TensorInfo, source: Source, *, required: bool) -> list[int]:
    """The shape with -1 for dynamic axes. Raises DataError for a dynamic axis of an input that no profile bounds."""
    loose = [axis for axis in info.shape[1:] if isinstance(axis, str)]
    if required and loose and info.name not in source.manifest.profiles:
        raise DataError(
            f"input {info.name!r} has the dynamic axes {', '.join(loose)}, and no profile bounds them",
            expected=f"[target.shapes.{info.name}] with min, opt and max",
            do="add it to edgeship.toml and ship again",
        )
    return [axis if isinstance(axis, int) else -1 for axis in info.shape]


def _warm_up(source: Source) -> tuple[list[str], dict[str, bytes]]:
    """The warm-up with the known frames, and its files."""
    manifest = source.manifest
    known = source.known_frames()
    if not known:
        return [], {}
    batched = _batched(source)
    raw: dict[str, bytes] = {}
    parts = []
    rows = 1
    for number, info in enumerate(manifest.inputs):
        array = np.ascontiguousarray(known[info.name])
        rows = array.shape[0] if batched else 1
        dims = array.shape[1:] if batched else array.shape
        file = f"input_{number}.raw"  # a tensor may be called as no file can be
        raw[file] = (array[0] if batched else array).tobytes()  # Triton repeats one row over the batch
        parts.append(
            f"inputs {{ key: {quoted(info.name)} value {{ data_type: {TYPES[info.dtype]} "
            f"dims: [ {', '.join(map(str, dims))} ] input_data_file: {quoted(file)} }} }}"
        )
    size = rows if batched else 0
    return [f'model_warmup [ {{ name: "known frame" batch_size: {size} {" ".join(parts)} }} ]'], raw


def _ensemble(source: Source, name: str) -> dict[str, bytes]:
    """Preprocessing as a model of the Python backend, and the two in a row."""
    manifest, info, size = source.manifest, source.image, source.size
    high = manifest.batch_range[1]
    first, whole = f"{name}_preprocess", f"{name}_from_image"
    shape = ", ".join(map(str, input_shape(source.steps, size)))
    kind = TYPES[info.dtype]
    settings = {
        "preprocess": source.steps.model_copy(update={"dtype": info.dtype}).model_dump(mode="json"),
        "size": size,
        "input": info.name,
    }
    between = "prepared"  # which no output may be called too
    while between in {out.name for out in manifest.outputs}:
        between += "_"
    image = f'input [ {{ name: "{IMAGE}" data_type: TYPE_STRING dims: [ 1 ] }} ]'
    steps = [
        f"name: {quoted(first)}", 'backend: "python"', f"max_batch_size: {high}", image,
        f"output [ {{ name: {quoted(info.name)} data_type: {kind} dims: [ {shape} ] }} ]",
        "instance_group [ { count: 2 kind: KIND_CPU } ]",
    ]  # fmt: skip
    maps = " ".join(f"output_map {{ key: {quoted(out.name)} value: {quoted(out.name)} }}" for out in manifest.outputs)
    row = [
        f"name: {quoted(whole)}", 'platform: "ensemble"', f"max_batch_size: {high}", image,
        *_tensors("output", manifest.outputs, source, True),
        "ensemble_scheduling {",
        f'  step [ {{ model_name: {quoted(first)} model_version: -1 input_map {{ key: "{IMAGE}" value: "{IMAGE}" }} '
        f"output_map {{ key: {quoted(info.name)} value: {quoted(between)} }} }} ]",
        f"  step [ {{ model_name: {quoted(name)} model_version: -1 "
        f"input_map {{ key: {quoted(info.name)} value: {quoted(between)} }} {maps} }} ]",
        "}",
    ]  # fmt: skip
    return {
        f"{first}/1/model.py": MODEL.encode(),
        f"{first}/1/settings.json": (json.dumps(settings, indent=2) + "\n").encode(),
        f"{first}/config.pbtxt": _text(steps, []),
        f"{whole}/1/.keep": b"",
        f"{whole}/config.pbtxt": _text(row, []),
    }


def _text(*parts: Sequence[str] | Iterator[str]) -> bytes:
    return "".join(f"{line}\n" for part in parts for line in part).encode()
