"""TensorRT 10's implicit path: FP16 and INT8 builder flags, a calibrator, and per-layer precision constraints.

Deprecated since TensorRT 10.1 and gone in 11; strongly typed Q/DQ graphs serve every generation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeship.engines import BuildRequest, _trt_audit
from edgeship.engines._trt import Flavour
from edgeship.engines._trt_network import Parsed
from edgeship.errors import CacheError, ConfigError, DataError, PrecisionError

if TYPE_CHECKING:
    import tensorrt as trt

    from edgeship.engines import Feeds

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
            do="edgeship calibrate MODEL --images FOLDER, then build with --cache",
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
            f"{where} is no TensorRT calibration cache: it begins with {head[:40]!r}",
            expected="a first line such as TRT-100300-EntropyCalibration2, then tensor: scale",
            do="edgeship calibrate writes one",
        )
    return found[2], f"TRT-{version_number(version)}-{found[2]}\n{body}".encode()


class Upload(Protocol):
    """Copies one batch to the device and returns the address of each input's buffer."""

    def __call__(self, feeds: Feeds) -> dict[str, int]: ...


class Calibration:
    """What a calibrator serves: a cache, or batches of real frames; and the error that stopped it."""

    def __init__(self, cache: bytes | None, frames: Iterator[Feeds] | None, upload: Upload | None, batch: int) -> None:
        self.cache, self.frames, self.upload, self.batch = cache, frames, upload, batch
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
        except (DataError, OSError, ValueError) as error:
            self.error = error
            return None
        return [addresses[name] for name in names]

    def finish(self) -> None:
        """Raise what stopped the calibration, if anything did."""
        if self.error is not None:
            raise self.error


def calibrator(trt: Any, serves: Calibration, algorithm: str) -> trt.IInt8Calibrator:
    """A vendor calibrator: ``EntropyCalibration2`` or ``MinMaxCalibration``."""
    base = trt.IInt8MinMaxCalibrator if algorithm == "MinMaxCalibration" else trt.IInt8EntropyCalibrator2

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


def configure(
    flavour: Flavour,
    parsed: Parsed,
    config: trt.IBuilderConfig,
    profile: trt.IOptimizationProfile,
    request: BuildRequest,
) -> Calibration:
    """Set the flags, the calibrator and the constraints of the kept nodes; return what the calibrator serves."""
    trt = flavour.trt
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.INT8)
    serves, algorithm = _serves(flavour, parsed, request)
    config.int8_calibrator = calibrator(trt, serves, algorithm)
    config.set_calibration_profile(profile)
    constrain(trt, parsed.network, config, request.keep)
    return serves


def _serves(flavour: Flavour, parsed: Parsed, request: BuildRequest) -> tuple[Calibration, str]:
    batch = request.target.batch.opt
    if request.cache is not None:
        text = read_cache(request.cache)
        algorithm, data = cache_for(flavour.version, text, str(request.cache))
        return Calibration(data, None, None, batch), algorithm
    from edgeship.engines._trt_upload import uploader

    return Calibration(None, request.frames, uploader(parsed.inputs), batch), "EntropyCalibration2"


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
        name = _trt_audit.onnx_name(layer.metadata, layer.name)
        seen = _trt_audit.Layer(name, layer.type.name, "", _trt_audit.HEAVY.get(layer.type.name, ""))
        hits = {pattern for pattern in keep if _trt_audit.is_kept(seen, (pattern,))}
        unused -= hits
        if hits and layer.type.name not in ("CONSTANT", "SHAPE"):
            layer.precision = trt.DataType.HALF
            kept.append(name)
    if unused:
        raise ConfigError([f"keep: {pattern!r} matches no node of the network" for pattern in sorted(unused)])
    if kept:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    return kept
