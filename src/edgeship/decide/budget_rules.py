"""Rules about what a frame costs besides the inference: its whole time, its rate, its start, its energy.

Each function judges one family for one case, as those of :mod:`edgeship.decide.rules` do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgeship.decide.case import Case, Family
from edgeship.decide.distributions import t_quantile
from edgeship.decide.drops import POINT
from edgeship.decide.rules import ORDER, SLACK, excuse, percent, upper_bound
from edgeship.results import FrameTimes, Outcome, Rule
from edgeship.results.separate_calls import samples_needed

LEVEL = 0.99
PACED = "paced_ms"
"""Frames at a rate: their number is set before."""
PARTS = {"image": "decode the image", "preprocess": "preprocess", "infer": "infer", "postprocess": "decode outputs"}


def frame(family: Family, case: Case) -> Iterator[Rule]:
    """The whole frame against its budget: the p99 and its upper bound."""
    limit, times = family.limit(case.gate), case.item.trial.frame
    if limit is None:
        return
    if times is None:
        yield family.unmeasured(limit, "whole frames were not timed; set it before `edgeship ship`")
        return
    parts = ", ".join(f"{PARTS.get(name, name)} {value.p50:.3g}" for name, value in times.parts_ms.items())
    said = f"a frame's p99 is {times.total_ms.p99:.3g} ms wall time at batch {times.batch} (medians: {parts} ms)"
    yield _tail(family, case, "total_ms", said, times, limit)


def rate(family: Family, case: Case) -> Iterator[Rule]:
    """Frames that come at a rate: 99 of 100 are done before the next one comes."""
    fps, times = case.gate.fps, case.item.trial.frame
    if fps is None:
        return
    period = 1e3 / fps
    if times is None or times.fps is None:
        yield family.unmeasured(period, "no frames were run at a rate; set it before `edgeship ship`")
        return
    if times.fps != fps:
        yield family.unmeasured(period, f"frames were run at {times.fps:g} a second, {fps:g} is asked for")
        return
    said = f"{times.missed} of {times.paced} frames at {fps:g} a second missed their deadline of {period:.3g} ms"
    yield _tail(family, case, PACED, said, times, period)


def _tail(family: Family, case: Case, key: str, said: str, times: FrameTimes, limit: float) -> Rule:
    samples = np.asarray(case.item.frames.get(key, np.empty(0)), np.float64)
    if not len(samples):
        return family.unmeasured(limit, "the samples of its frames are not there")
    confidence = case.gate.confidence
    measured = float(np.quantile(samples, LEVEL, method="inverted_cdf"))
    bound, method = measured, POINT
    if confidence > 0:
        bound, method = upper_bound(samples, LEVEL, confidence, looked=key != PACED)
        bound = math.inf if method != ORDER and bound > limit else bound
    outcome: Outcome = "inconclusive"
    if measured > limit + SLACK:
        outcome, reason = "fail", f"{said}; p99 is {measured:.3g} ms, {limit:.3g} ms are allowed"
        busy = f"the machine was busy: {times.machine.busy}" if times.machine.busy else ""
        if spoiled := excuse(busy, samples, LEVEL, limit):
            outcome, reason = "inconclusive", f"{reason}, but {spoiled}"
    elif not math.isfinite(bound):
        reason = (
            f"{said}, but {len(samples)} frames are too few to be {percent(confidence)} sure of p99: it takes at least "
            f"{samples_needed(LEVEL, confidence)} that are not slow together; raise benchmark.max_s"
        )
    elif bound > limit + SLACK:
        reason = f"{said}, within {limit:.3g} ms, but p99 could be {bound:.3g} ms at {percent(confidence)}"
    else:
        sure = f" (at {percent(confidence)} confidence p99 is at most {bound:.3g} ms)" if confidence > 0 else ""
        outcome, reason = "pass", f"{said}{sure}, within {limit:.3g} ms"
    sure_bound = bound if math.isfinite(bound) else None
    return family.rule(outcome, reason, limit=limit, measured=measured, bound=sure_bound, method=method)


def start(family: Family, case: Case) -> Iterator[Rule]:
    """From nothing to the first answer, cold: the longest start."""
    limit, found = family.limit(case.gate), case.item.trial.starts
    if limit is None:
        return
    if found is None:
        yield family.unmeasured(limit, "starts were not timed; set it before `edgeship ship`")
        return
    cold, warm = max(found.cold_ms), max(found.warm_ms)
    kept = "" if found.dropped else ", the file still in memory: this system cannot drop it"
    said = (
        f"the longest of {len(found.cold_ms)} cold starts takes {cold:.4g} ms to the first answer (warm {warm:.4g} ms)"
    )
    outcome: Outcome = "pass" if cold <= limit + SLACK else "fail"
    yield family.rule(
        outcome, f"{said}{kept}; {limit:g} ms are allowed", limit=limit, measured=cold, bound=cold, method=POINT
    )


def energy(family: Family, case: Case) -> Iterator[Rule]:
    """Energy of a frame above rest: mean over the blocks, with an upper bound."""
    found = case.item.trial.energy
    yield from _blocks(family, case, found.mj_per_frame if found else (), "a frame takes {:.4g} mJ above rest")


def power(family: Family, case: Case) -> Iterator[Rule]:
    """Power under load, rest included: mean over the blocks, with an upper bound."""
    found = case.item.trial.energy
    yield from _blocks(family, case, found.power_w if found else (), "power under load is {:.4g} W")


def _blocks(family: Family, case: Case, values: Sequence[float], words: str) -> Iterator[Rule]:
    limit, found, confidence = family.limit(case.gate), case.item.trial.energy, case.gate.confidence
    if limit is None:
        return
    if found is None or not values:
        yield family.unmeasured(limit, "energy was not measured; set it before `edgeship ship`")
        return
    mean, bound, method = float(np.mean(values)), float(np.mean(values)), POINT
    if confidence > 0 and len(values) > 1:
        spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        bound = mean + (t_quantile(confidence, len(values) - 1) if confidence > 0.5 else 0.0) * spread
        method = f"Student's t over {len(values)} blocks"
    mode = f", power mode {found.power_mode}" if found.power_mode else ""
    said = f"{words.format(mean)} by {found.source} over {found.frames} frames at batch {found.batch}{mode}"
    outcome: Outcome = "pass"
    if mean > limit + SLACK:
        outcome, reason = "fail", f"{said}; {limit:g} {family.unit} are allowed"
    elif bound > limit + SLACK:
        outcome = "inconclusive"
        reason = f"{said}, but it could be {bound:.4g} at {percent(confidence)}; {limit:g} {family.unit} are allowed"
    else:
        reason = f"{said}, at most {bound:.4g} at {percent(confidence)}; {limit:g} {family.unit} are allowed"
    yield family.rule(outcome, reason, limit=limit, measured=mean, bound=bound, method=method)
