"""How much less one quantizer's figure is than another's on the same images, with the gate's own bounds at 95 %."""

from __future__ import annotations

from typing import Any

import numpy as np
from int8_networks import Array, Figure, Network

from edgeship.decide.statistics import Interval, bootstrap_upper, leave_out, paired_upper, resampling

CONFIDENCE = 0.95
RESAMPLES = 1000


def drop(mine: Figure, theirs: Figure, network: Network) -> dict[str, Any]:
    """What ``mine`` lost against ``theirs``, with one-sided bounds, and the verdict that these allow."""
    if network.member is None and mine.right is not None and theirs.right is not None:
        found, more = _share(mine.right, theirs.right)
    else:
        found, more = _resampled(mine, theirs, network), {}
    verdict = "worse" if found.lower > 0 else "better" if found.upper < 0 else "not told apart"
    return {"drop": found.estimate, "lower": found.lower, "upper": found.upper, "verdict": verdict, **more}


def _share(mine: Array, theirs: Array) -> tuple[Interval, dict[str, int]]:
    """Independent images that are right or not: the exact paired test, both ways."""
    lost, gained, images = int((theirs & ~mine).sum()), int((mine & ~theirs).sum()), len(mine)
    lower, upper = -paired_upper(gained, lost, images, CONFIDENCE), paired_upper(lost, gained, images, CONFIDENCE)
    return Interval((lost - gained) / images, lower, upper), {"lost": lost, "gained": gained}


def _resampled(mine: Figure, theirs: Figure, network: Network) -> Interval:
    """The paired bootstrap over images, or over the photographs that they are views of."""
    images = len(network.images)
    member = np.arange(images) if network.member is None else np.unique(network.member, return_inverse=True)[1]
    units = network.independent
    weights = np.concatenate([resampling(units, RESAMPLES), leave_out(units)])[:, member]
    drops = theirs.weighted(weights) - mine.weighted(weights)
    estimate, samples, influence = theirs.of(images) - mine.of(images), drops[:RESAMPLES], drops[RESAMPLES:]
    upper = bootstrap_upper(estimate, samples, influence, units, CONFIDENCE)
    lower = -bootstrap_upper(-estimate, -samples, -influence, units, CONFIDENCE)
    return Interval(estimate, lower, upper)
