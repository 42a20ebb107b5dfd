"""The verdict in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeship.decide import rulebook
from edgeship.decide.loaded_trial import Measured
from edgeship.results import Judged, Rule

HIGH = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Told:
    """What the sentence tells of: all candidates as judged, their builds and their medians in milliseconds."""

    judged: Sequence[Judged]
    builds: Mapping[str, Sequence[Measured]]
    medians: Mapping[str, float]
    among: int = 1
    """Candidates whose accuracy was tested."""
    error: float = 0.0
    """What all tests together may err; 0: statistics are off."""


def sentence(told: Told, chosen: Judged | None, open_: Sequence[Judged]) -> str:
    """Why this verdict: what ships and how fast, what is undecided and by what, or what each candidate fails."""
    medians = told.medians
    if chosen is not None:
        time = medians[chosen.candidate]
        speed = ""
        if chosen.speedup and chosen.speedup != 1:
            speed = f", {chosen.speedup:.2f} times as fast as fp32 ({chosen.speedup_words})"
        text = f"{chosen.candidate} passes every rule"
        if math.isfinite(time):
            text += f" at a median of {time:.3g} ms{speed}"
        faster = [item for item in open_ if medians[item.candidate] < time]
        if faster:
            text += f"; {faster[0].candidate} is faster, but undecided: {_undecided(faster[0])}"
        if told.among > 1 and 0 < told.error < 1:
            text += (
                f"; chosen among {told.among}, tested safest first so that their error together stays {told.error:.3g}"
            )
        return text + _no_gain(told, chosen)
    if open_:
        nearest = min(open_, key=lambda item: (len(item.reasons), medians[item.candidate]))
        return f"nothing passes yet; {nearest.candidate} is undecided: {_undecided(nearest)}"
    return "nothing passes: " + "; ".join(f"{item.candidate}: {_failing(item)}" for item in told.judged)


def _undecided(item: Judged) -> str:
    """What is undecided, a doubted reference first: no other rule means anything before it is right."""
    still = sorted((rule for rule in item.rules if rule.outcome != "pass"), key=_foremost)
    others = f" (and {len(still) - 1} more)" if len(still) > 1 else ""
    return still[0].reason + others


def _foremost(rule: Rule) -> bool:
    return rulebook.of(rule.name).name != rulebook.REFERENCE


def _failing(item: Judged) -> str:
    return next(rule.reason for rule in item.rules if rule.outcome == "fail")


def _no_gain(told: Told, chosen: Judged) -> str:
    """That INT8 is slower than the high precision that ships, where all of it is; empty where it is not."""
    builds, medians = told.builds, told.medians
    if builds[chosen.candidate][0].trial.candidate.precision not in HIGH:
        return ""
    quantized = [
        item
        for item in told.judged
        if builds[item.candidate][0].trial.candidate.precision not in HIGH and math.isfinite(medians[item.candidate])
    ]
    best = min(quantized, key=lambda item: medians[item.candidate], default=None)
    if best is None or medians[best.candidate] <= medians[chosen.candidate]:
        return ""
    times = medians[best.candidate], medians[chosen.candidate]
    audit = builds[best.candidate][0].trial.audit
    hottest = audit.hottest if audit is not None else ()
    return "; " + slower(best.candidate, best.rules, times, chosen.candidate, hottest)


def slower(
    candidate: str, judged: Sequence[Rule], times: tuple[float, float], high: str, hottest: Sequence[tuple[str, float]]
) -> str:
    """Why INT8 is not a gain: its median against that of high precision, what else it breaks, where its time goes.

    Args:
        candidate: The INT8 candidate's name.
        judged: Its rules.
        times: Its median and that of the more precise candidate, in milliseconds.
        high: The more precise candidate's name.
        hottest: Operator kinds by share of its run time.
    """
    text = f"{candidate} is slower here ({times[0]:.3g} ms against {times[1]:.3g} ms for {high})"
    others = [rule for rule in judged if rulebook.of(rule.name).kind != "speed"]
    for outcome, word in (("fail", "worse"), ("inconclusive", "undecided")):
        broken = next((rule for rule in others if rule.outcome == outcome), None)
        if broken is not None:
            text += f" and {word} ({broken.reason})"
            break
    if hottest:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in hottest[:4])
        text += f"; it spends its time in {shares}"
    return text
