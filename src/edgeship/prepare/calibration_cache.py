"""Calibration caches: TensorRT's text format, and the sidecar that binds one to what it came from.

Four files belong together: ``calib.cache`` (scales, readable by TensorRT 10, trtexec and ModelOpt),
``calib.cache.json`` (the binding), ``calib.ranges.json`` (tensor → range by every method) and ``calib.frames.npz`` (a
few of the frames, preprocessed: quantized graphs are run on them).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from edgeship.errors import CacheError
from edgeship.files import sha256_bytes, sha256_file, sha256_json, write_bytes, write_text
from edgeship.prepare.frame_checks import pack, unpack
from edgeship.prepare.quantized_tensors import Placement, Style
from edgeship.results import Result, TensorRange, read
from edgeship.version import __version__

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

CALIBRATION_VERSION = 4
"""Rises when the same frames would give other thresholds."""
HEADER = "TRT-100000-EntropyCalibration2"
"""Names the format, not the method: TensorRT's and trtexec's calibrators accept a cache under their own kind only."""
UNLIMITED = (-math.inf, math.inf)
_HEADER = re.compile(r"TRT-\d+-\w+")


class Binding(Result):
    """What a cache came from. Is beside the cache as ``<cache>.json``."""

    schema_version: int = 1
    calibration_version: int = CALIBRATION_VERSION
    edgeship: str
    method: str
    graph_sha256: str
    preprocess: dict[str, Any] = Field(default_factory=dict)
    """The settings that made the frames from images; empty: they came preprocessed."""
    preprocess_sha256: str
    frames_sha256: str
    frames: int
    placements: dict[Style, Placement] = Field(default_factory=dict)
    """Kind of engine → where its Q/DQ pairs are placed, as the frames showed."""
    cache_sha256: str
    ranges_sha256: str
    samples_sha256: str


@dataclass(frozen=True)
class Expected:
    """What a cache should have come from; None: not known here, not compared."""

    graph_sha256: str | None = None
    preprocess: Mapping[str, Any] | None = None
    frames_sha256: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class CalibrationCache:
    """A cache that was read and accepted.

    ``scales`` are int8 scales (amax / 127) by tensor; ``ranges`` is empty for a trusted plain cache.
    """

    path: Path
    scales: dict[str, float]
    ranges: dict[str, TensorRange]
    method: str
    trusted: bool = False
    placements: Mapping[Style, Placement] = field(default_factory=dict)

    def bounds(self, tensor: str, limits: tuple[float, float] = UNLIMITED) -> tuple[float, float] | None:
        """(low, high) of ``tensor`` for asymmetric quantization; None: the cache does not know it.

        ``limits``: what the tensor can be; a plain cache knows its largest magnitude only.
        """
        known = self.ranges.get(tensor)
        if known is not None:
            return known.bounds[self.method]
        if tensor not in self.scales:
            return None
        amax = self.scales[tensor] * 127.0
        return max(-amax, limits[0]), min(amax, limits[1])


def sidecar_path(cache: Path) -> Path:
    """Where the binding of a cache is."""
    return cache.with_name(cache.name + ".json")


def ranges_path(cache: Path) -> Path:
    """Where the ranges of a cache are."""
    return cache.with_name(cache.stem + ".ranges.json")


def samples_path(cache: Path) -> Path:
    """Where a few of the calibration frames are, preprocessed."""
    return cache.with_name(cache.stem + ".frames.npz")


@dataclass(frozen=True)
class Content:
    """What is written: int8 scales, ranges by every method, and a few real batches."""

    scales: Mapping[str, float]
    ranges: Mapping[str, TensorRange]
    samples: Sequence[FrameBatch]


def format_cache(scales: Mapping[str, float]) -> str:
    """TensorRT's text: a header line, then ``tensor: hex`` of the big-endian float32 scale.

    Raises:
        CacheError: The name of a tensor is more than one line.
    """
    broken = next((name for name in scales if len(name.splitlines()) > 1), None)
    if broken is not None:
        raise CacheError(
            f"the tensor {broken!r} has a line end in its name, and TensorRT's cache has one line for a tensor",
            expected="names of one line",
            do="export the model with other names",
        )
    lines = [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return "\n".join([HEADER, *lines]) + "\n"


def parse_cache(path: Path) -> dict[str, float]:
    """Scales by tensor name.

    Raises:
        CacheError: Absent, empty, or a line that is not ``tensor: 8 hexadecimal digits`` of a positive number.
    """
    fix = "calibrate again: edgeship calibrate"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise CacheError(f"no calibration cache at {path}", do=fix) from None
    except UnicodeDecodeError:
        raise CacheError(f"{path} is not text", expected="a TensorRT calibration cache", do=fix) from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise CacheError(f"{path} is empty", expected="a header line and one line for each tensor", do=fix)
    if not _HEADER.match(lines[0]):
        raise CacheError(
            f"{path} begins with {lines[0][:60]!r}", expected=f"a header such as {HEADER!r}", do="give a TensorRT cache"
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        name, separator, digits = line.rpartition(":")
        scale = _scale(digits.strip())
        if not separator or not name or scale is None:
            raise CacheError(
                f"{path}, line {number}: {line[:80]!r} is not a scale",
                expected="'tensor: ' and 8 hexadecimal digits of a positive float32",
                do=fix,
            )
        if name in scales:
            raise CacheError(f"{path}, line {number}: tensor {name!r} is there twice", do=fix)
        scales[name] = scale
    if not scales:
        raise CacheError(f"{path} holds a header and no tensor", expected="one line for each tensor", do=fix)
    return scales


def _scale(digits: str) -> float | None:
    if not re.fullmatch(r"[0-9a-fA-F]{8}", digits):
        return None
    value = float(struct.unpack(">f", bytes.fromhex(digits))[0])
    return value if math.isfinite(value) and value > 0 else None


def save(cache: Path, content: Content, facts: Mapping[str, object]) -> None:
    """Write frames, ranges, cache and binding, the binding last: without it the others are not accepted.

    ``facts`` are the fields of :class:`Binding` other than the hashes of the files written here.
    """
    sidecar_path(cache).unlink(missing_ok=True)
    ranges = {name: entry.model_dump(mode="json") for name, entry in content.ranges.items()}
    files = {
        "samples": (samples_path(cache), pack([feeds for _, feeds in content.samples])),
        "ranges": (ranges_path(cache), (json.dumps(ranges, indent=1) + "\n").encode()),
        "cache": (cache, format_cache(content.scales).encode()),
    }
    for path, data in files.values():
        write_bytes(path, data)
    hashes = {f"{part}_sha256": sha256_bytes(data) for part, (_, data) in files.items()}
    binding = Binding.model_validate({**facts, **hashes})
    write_text(sidecar_path(cache), binding.model_dump_json(indent=2) + "\n")


def save_derived(cache: Path, base: CalibrationCache, derived: CalibrationCache, graph_sha256: str) -> None:
    """Write the scales and ranges of ``derived`` for another graph, made from the frames of ``base``.

    Where Q/DQ pairs go, and the frames beside the cache, are those of ``base``.
    """
    bound = read(Binding, sidecar_path(base.path)) if sidecar_path(base.path).is_file() else None
    facts = {
        "edgeship": __version__,
        "method": derived.method,
        "graph_sha256": graph_sha256,
        "preprocess": bound.preprocess if bound is not None else {},
        "preprocess_sha256": bound.preprocess_sha256 if bound is not None else "",
        "frames_sha256": bound.frames_sha256 if bound is not None else "",
        "frames": bound.frames if bound is not None else 0,
        "placements": dict(base.placements),
    }
    save(cache, Content(derived.scales, derived.ranges, samples(base)), facts)


def samples(calibration: CalibrationCache) -> list[FrameBatch]:
    """The frames beside a cache; empty for a trusted plain cache."""
    path = samples_path(calibration.path)
    if calibration.trusted or not path.is_file():
        return []
    return [
        (tuple(f"calibration frame {number}.{row}" for row in range(len(next(iter(feeds.values()))))), feeds)
        for number, feeds in enumerate(unpack(path))
    ]


def load(cache: Path, expected: Expected, *, trust: bool = False) -> CalibrationCache:
    """Read a cache that belongs to ``expected``.

    Args:
        trust: Accept a plain TensorRT cache that has no binding beside it. A binding that is there is always checked.

    Raises:
        CacheError: Malformed, without a binding, or bound to something else; every difference is named.
    """
    scales = parse_cache(cache)
    if not sidecar_path(cache).is_file():
        if trust:
            return CalibrationCache(cache, scales, {}, "cache", trusted=True)
        raise CacheError(
            f"{cache} has no binding: nothing says what it was calibrated from",
            expected=f"{sidecar_path(cache).name} beside it, as edgeship calibrate writes it",
            do="calibrate again, or accept it as it is with --trust-cache (calibration.trust_cache = true)",
        )
    binding = read(Binding, sidecar_path(cache))
    wrong = differences(cache, binding, expected)
    if wrong:
        lines = "\n".join(f"  - {item}" for item in wrong)
        raise CacheError(f"{cache} does not belong here:\n{lines}", do="calibrate again for this model")
    ranges = _ranges(ranges_path(cache), binding.method)
    return CalibrationCache(cache, scales, ranges, binding.method, placements=binding.placements)


def differences(cache: Path, binding: Binding, expected: Expected) -> list[str]:
    """What differs between a cache's binding and what is expected, one sentence each."""
    found = []
    if binding.calibration_version != CALIBRATION_VERSION:
        found.append(
            f"version: made by edgeship {binding.edgeship} (calibration version {binding.calibration_version}), "
            f"this one has calibration version {CALIBRATION_VERSION}"
        )
    if binding.cache_sha256 != sha256_file(cache):
        found.append("cache: its scales were changed after it was written")
    beside = (
        ("ranges", ranges_path(cache), binding.ranges_sha256),
        ("frames", samples_path(cache), binding.samples_sha256),
    )
    for part, path, digest in beside:
        if not path.is_file():
            found.append(f"{part}: {path.name} is not beside it")
        elif digest != sha256_file(path):
            found.append(f"{part}: {path.name} was changed after it was written")
    pairs = (
        ("graph", "another model or other weights", binding.graph_sha256, expected.graph_sha256),
        ("frames", "other images", binding.frames_sha256, expected.frames_sha256),
        ("method", "another method", binding.method, expected.method),
    )
    for part, meaning, has, wants in pairs:
        if wants is not None and has != wants:
            found.append(f"{part}: made from {meaning} ({has[:12]}, here {wants[:12]})")
    if expected.preprocess is not None and binding.preprocess_sha256 != settings_hash(expected.preprocess):
        found.append(f"preprocessing: {_other_settings(binding.preprocess, expected.preprocess)}")
    return found


def settings_hash(preprocess: Mapping[str, Any]) -> str:
    """What binds a cache to the preprocessing of its frames; empty where they came preprocessed."""
    return sha256_json(preprocess) if preprocess else ""


def _other_settings(has: Mapping[str, Any], wants: Mapping[str, Any]) -> str:
    """Which settings differ, and how."""
    if not has or not wants:
        made = "from images with other settings" if wants else "from images"
        return f"made {made}, here the frames come {'from images' if wants else 'preprocessed'}"
    names = [name for name in dict.fromkeys((*has, *wants)) if has.get(name) != wants.get(name)]
    told = ", ".join(f"{name} was {has.get(name)}, here {wants.get(name)}" for name in names)
    return f"made with other settings: {told}"


def _ranges(path: Path, method: str) -> dict[str, TensorRange]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        ranges = {name: TensorRange.model_validate(entry) for name, entry in raw.items()}
    except (ValueError, RecursionError, AttributeError) as error:
        raise CacheError(f"{path} cannot be read: {str(error).splitlines()[0]}", do="calibrate again") from None
    if any(method not in entry.bounds or method not in entry.amax for entry in ranges.values()):
        raise CacheError(f"{path} lacks the ranges of method {method!r}", do="calibrate again")
    return ranges


def graph_hash(model: onnx.ModelProto) -> str:
    """SHA-256 of what a graph computes: operators, edges, attributes, weights; not its comments or metadata."""
    import hashlib

    from onnx import numpy_helper

    digest = hashlib.sha256()
    for entry in sorted(model.opset_import, key=lambda item: item.domain):
        digest.update(f"{entry.domain}:{entry.version};".encode())
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        digest.update(value.name.encode() + value.type.SerializeToString(deterministic=True))
    for tensor in sorted(graph.initializer, key=lambda item: item.name):
        array = numpy_helper.to_array(tensor)
        digest.update(f"{tensor.name}:{tensor.data_type}:{array.shape};".encode())
        digest.update(array.tobytes())
    for node in graph.node:
        digest.update(f"{node.domain}|{node.op_type}|{list(node.input)}|{list(node.output)};".encode())
        for attribute in sorted(node.attribute, key=lambda item: item.name):
            digest.update(attribute.SerializeToString(deterministic=True))
    return digest.hexdigest()


def lacking(calibration: CalibrationCache, missing: dict[str, None]) -> CacheError:
    """The error for a cache without ranges of tensors that quantization needs."""
    return CacheError(
        f"{calibration.path} lacks {len(missing)} of the tensors to quantize: {', '.join(missing)[:300]}",
        expected="a scale for every tensor that quantization touches",
        do="calibrate this model again, or keep the nodes that read these tensors in high precision (--keep)",
    )
