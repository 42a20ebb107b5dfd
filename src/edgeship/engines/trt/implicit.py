"""TensorRT 10's implicit path: FP16 and INT8 builder flags, a calibrator, and per-layer precision constraints.

Deprecated since TensorRT 10.1 and gone in 11; strongly typed Q/DQ graphs serve every generation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeship.config import Calibrator
from edgeship.engines import BuildRequest
from edgeship.engines.trt import audit
from edgeship.engines.trt.flavour import Flavour
from edgeship.engines.trt.network import Parsed
from edgeship.engines.trt.profiles import Profile
from edgeship.errors import CacheError, ConfigError, DataError, EdgeshipError, PrecisionError

if TYPE_CHECKING:
    import tensorrt as trt

    from edgeship.engines import Array, Feeds

ENTROPY, MINMAX = "EntropyCalibration2", "MinMaxCalibration"
ALGORITHMS: dict[Calibrator, str] = {"entropy": ENTROPY, "minmax": MINMAX}
HEADER = re.compile(r"TRT-(\d+)-(EntropyCalibration2|MinMaxCalibration)")


def refuse_unless_possible(flavour: Flavour, request: BuildRequest) -> None:
    """Refuse the implicit path where it does not exist or has nothing to calibrate from.

    Raises:
        PrecisionError: TensorRT 11 or TensorRT-RTX.
        DataError: Neither a calibration cache nor frames.
    """
    if flavour.strong_only:
        raise PrecisionError(
            f'precision "implicit" needs TensorRT 10; {flavour.title} has no calibrator and no INT8 flag: '
            "precision lives in the ONNX",
            expected="a graph with QuantizeLinear and DequantizeLinear nodes",
            do=f'use precision "int8": edgeship quantize {request.onnx} --precision int8 puts the same calibration '
            "into the graph",
        )
    if request.cache is None and request.frames is None:
        raise DataError(
            "INT8 calibration has neither a calibration cache nor frames; random data is never used",
            expected="a cache from edgeship calibrate, or frames from the deployment camera",
            do="edgeship calibrate MODEL --images FOLDER, then build with --cache; or build with --npz FRAMES",
        )


def version_number(version: str) -> int:
    """NV_TENSORRT_VERSION of ``10.3.0.26``: 100300."""
    major, minor, patch = (int(part) for part in (*version.split("."), "0", "0")[:3])
    return major * 10000 + minor * 100 + patch


def cache_for(version: str, text: str, where: str) -> tuple[str, bytes]:
    """A calibration cache's algorithm, and its bytes under the header that this version accepts.

    Raises:
        CacheError: No TensorRT calibration cache.
    """
    head, _, body = text.partition("\n")
    found = HEADER.fullmatch(head.strip())
    if found is None or not body.strip():
        raise CacheError(
            f"{where} is not a TensorRT calibration cache: it begins with {head[:40]!r}",
            expected="a first line such as TRT-100300-EntropyCalibration2, then tensor: scale",
            do="edgeship calibrate writes one",
        )
    return found[2], f"TRT-{version_number(version)}-{found[2]}\n{body}".encode()


class Upload(Protocol):
    """Copies one batch to the device and returns the address of each input's buffer."""

    def __call__(self, feeds: Feeds) -> dict[str, int]: ...

    def close(self) -> None: ...


class Calibration:
    """What a calibrator serves: a cache, or batches of real frames; and the error that stopped it."""

    def __init__(
        self,
        cache: bytes | None,
        frames: Iterator[Feeds] | None,
        upload: Upload | None,
        batch: int,
        algorithm: str = ENTROPY,
    ) -> None:
        self.cache, self.frames, self.upload, self.batch = cache, frames, upload, batch
        self.algorithm = algorithm
        self.written: bytes | None = None
        self.error: Exception | None = None

    def next_batch(self, names: list[str]) -> list[int] | None:
        """Addresses of the next batch in the order of ``names``; None at the end or after an error."""
        if self.frames is None or self.upload is None:
            return None
        try:
            feeds = next(self.frames, None)
            if feeds is None:
                return None
            missing = [name for name in names if name not in feeds]
            if missing:
                raise DataError(f"the calibration frames have no input {missing[0]!r}", expected=", ".join(names))
            addresses = self.upload(feeds)
        except (EdgeshipError, OSError, ValueError) as error:
            self.error = error
            return None
        return [addresses[name] for name in names]

    def finish(self) -> None:
        """Raise what stopped the calibration, if anything did."""
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Calibration:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.upload is not None:
            self.upload.close()


def batched(frames: Iterator[Feeds], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Feeds]:
    """Single frames gathered to the profile's opt shapes, which are what TensorRT calibrates with.

    The last batch is filled up with the first frames again.

    Raises:
        DataError: No frames, an input without one, or frames of another shape.
    """
    size = max((shape[0] for shape in shapes.values() if shape), default=1)
    first: list[Feeds] = []
    group: list[Feeds] = []
    for feeds in frames:
        if len(first) < size:
            first.append(feeds)
        group.append(feeds)
        if len(group) == size:
            yield _stacked(group, shapes)
            group = []
    if not first:
        raise DataError("there are no calibration frames", do="name frames from the deployment camera")
    if group:
        yield _stacked((group + first * size)[:size], shapes)


def _stacked(group: list[Feeds], shapes: Mapping[str, tuple[int, ...]]) -> Feeds:
    made: dict[str, Array] = {}
    for name, shape in shapes.items():
        if any(name not in feeds for feeds in group):
            raise DataError(f"the calibration frames have no input {name!r}", expected=", ".join(shapes))
        arrays = [feeds[name] for feeds in group]
        array = np.concatenate(arrays)[: shape[0]] if shape and all(part.ndim for part in arrays) else arrays[-1]
        if array.shape != shape:
            raise DataError(
                f"calibration frames: {len(group)} of {name!r} give the shape {array.shape}",
                expected=f"{shape}, the profile's opt shape",
            )
        made[name] = np.asarray(array, order="C")
    return made


def calibrator(trt: Any, serves: Calibration) -> trt.IInt8Calibrator:
    """A vendor calibrator of the algorithm that ``serves`` names."""
    base = trt.IInt8MinMaxCalibrator if serves.algorithm == MINMAX else trt.IInt8EntropyCalibrator2

    class _Calibrator(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)

        def get_batch_size(self) -> int:
            return serves.batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            return serves.next_batch(names)

        def read_calibration_cache(self) -> bytes | None:
            return serves.cache

        def write_calibration_cache(self, cache: bytes) -> None:
            serves.written = bytes(cache)

    return _Calibrator()


def configure(trt: Any, config: trt.IBuilderConfig, profile: trt.IOptimizationProfile, serves: Calibration) -> None:
    """Set the flags and the calibrator."""
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.INT8)
    config.int8_calibrator = calibrator(trt, serves)
    config.set_calibration_profile(profile)


def calibration(
    flavour: Flavour, parsed: Parsed, profiles: Mapping[str, Profile], request: BuildRequest
) -> Calibration:
    """What the calibrator serves: the cache, whose header names the algorithm; else frames, by the asked-for one.

    Raises:
        CacheError: The cache is none of TensorRT's.
        DeviceError: No memory for the frames.
    """
    shapes = {tensor.name: profiles[tensor.name][1] for tensor in parsed.inputs}
    batch = max((shape[0] for shape in shapes.values() if shape), default=1)
    if request.cache is not None:
        algorithm, data = cache_for(flavour.version, read_cache(request.cache), str(request.cache))
        return Calibration(data, None, None, batch, algorithm)
    assert request.frames is not None
    from edgeship.engines.trt.buffers import Uploader

    return Calibration(
        None, batched(request.frames, shapes), Uploader(parsed.inputs), batch, ALGORITHMS[request.calibrator]
    )


def written_beside(engine: Path) -> Path:
    """Where a build that calibrated on frames leaves the cache that TensorRT wrote: another build may take it."""
    return engine.with_name(f"{engine.name}.cache")


def read_cache(path: Path) -> str:
    """The text of a calibration cache. Raises CacheError when absent or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CacheError(f"the calibration cache {path} does not exist", do="edgeship calibrate writes one") from None
    except UnicodeDecodeError:
        raise CacheError(f"the calibration cache {path} is not text", expected="a TensorRT calibration cache") from None


def constrain(
    trt: Any, network: trt.INetworkDefinition, config: trt.IBuilderConfig, keep: tuple[str, ...]
) -> list[str]:
    """Keep the layers of the named nodes in FP16, as an obligation to the builder. Returns their names.

    Raises:
        ConfigError: A pattern that matches no node.
    """
    unused = set(keep)
    kept = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        name = audit.onnx_name(layer.metadata, layer.name)
        seen = audit.Layer(name, layer.type.name, "", audit.HEAVY.get(layer.type.name, ""))
        hits = {pattern for pattern in keep if audit.is_kept(seen, (pattern,))}
        unused -= hits
        if hits and _has_precision(trt, layer):
            layer.precision = trt.DataType.HALF
            kept.append(name)
    if unused:
        raise ConfigError([f"keep: {pattern!r} matches no node of the network" for pattern in sorted(unused)])
    if kept:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    return kept


def _has_precision(trt: Any, layer: trt.ILayer) -> bool:
    """Whether a layer computes in floats: a pattern such as ``/head/*`` also matches layers on indices and shapes."""
    if layer.type.name == "CONSTANT" or not layer.num_outputs:
        return False
    source = layer.get_input(0) if layer.num_inputs else None
    floats = (trt.DataType.FLOAT, trt.DataType.HALF)
    return layer.get_output(0).dtype in floats and not (source is not None and source.is_shape_tensor)
