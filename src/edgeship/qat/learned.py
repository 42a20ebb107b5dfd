"""The learned ranges in a calibration cache: the way by which every engine's graph gets them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.prepare import calibration_cache
from edgeship.prepare.calibration_cache import CalibrationCache
from edgeship.prepare.methods import scales_of
from edgeship.prepare.quantized_tensors import find_tensors
from edgeship.qat.fake import ActivationQuantizer
from edgeship.results import TensorRange

if TYPE_CHECKING:
    import onnx

METHOD = "learned"


def save_learned(
    out: Path, base: CalibrationCache, learned: Mapping[str, ActivationQuantizer], reference: onnx.ModelProto
) -> None:
    """Write a cache with the learned ranges; tensors that were not trained keep those of ``base``.

    Args:
        reference: The trained graph, with inferred names and types; the cache is bound to it.
    """
    ranges = {name: _entry(base, name, learned.get(name)) for name in {*base.ranges, *base.scales, *learned}}
    touched = find_tensors(reference)
    known = {*touched.observed, *touched.shared}
    scales = {name: value for name, value in base.scales.items() if name in known}
    usable = type(touched)(
        observed=tuple(name for name in touched.observed if name in ranges),
        shared={name: root for name, root in touched.shared.items() if root in ranges},
    )
    scales |= scales_of(ranges, usable, METHOD)
    derived = CalibrationCache(out, scales, ranges, METHOD)
    calibration_cache.save_derived(out, base, derived, calibration_cache.graph_hash(reference))


def _entry(base: CalibrationCache, name: str, quantizer: ActivationQuantizer | None) -> TensorRange:
    """One tensor's range by the method ``learned``."""
    before = base.bounds(name) or (0.0, 0.0)
    known = base.ranges.get(name) or TensorRange(low=before[0], high=before[1], amax={}, bounds={})
    low, high = before
    amax = known.amax.get(base.method, max(abs(low), abs(high)))
    if quantizer is not None:
        grid, scale = quantizer.grid, quantizer.scale
        symmetric = grid.low < 0
        ends = (grid.low + 1 if symmetric else grid.low, grid.high)
        low, high = ((end - grid.zero) * scale for end in ends)
        amax = max(abs(low), abs(high))
        if symmetric and before[0] >= 0.0:
            low = 0.0
    return known.model_copy(
        update={"amax": {**known.amax, METHOD: amax}, "bounds": {**known.bounds, METHOD: (low, high)}}
    )
