"""Several builds of one candidate: how far they are apart, and how slow the slowest is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeship.decide.loaded_trial import Measured
from edgeship.results import Clock


def output_spread(builds: Sequence[Measured]) -> float | None:
    """Largest absolute difference between the outputs of several builds for the known frames; None: not recorded."""
    with_outputs = [item.outputs for item in builds if item.outputs]
    if len(with_outputs) < 2:
        return None
    first = with_outputs[0]
    gaps = [
        float(np.abs(np.asarray(other[name], np.float64) - np.asarray(first[name], np.float64)).max(initial=0.0))
        for other in with_outputs[1:]
        for name in first
        if name in other and other[name].shape == first[name].shape
    ]
    return max(gaps, default=None)


def medians_of(clock: Clock, builds: Sequence[Measured]) -> list[float]:
    """Medians of the builds whose latency was measured, in milliseconds."""
    latencies = [item.trial.latency for item in builds]
    timed = [latency.timed(clock) for latency in latencies if latency is not None]
    return [found.quantiles.p50 for found in timed if found is not None]


def slowest(clock: Clock, builds: Sequence[Measured]) -> float:
    """Median of the slowest build in milliseconds; infinite where none was measured."""
    return max(medians_of(clock, builds), default=math.inf)
