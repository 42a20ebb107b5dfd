"""Whether what one run chose may replace what another one did: a verdict, with the paired statistics.

The question of an upgrade ("TensorRT 10.16 → 11.4: may we?") and of a new version. Accuracy: the later run's own rules,
its limits against what the earlier run chose, on the same images (:mod:`edgeship.decide.gate`, as for
``gate.baseline``). Speed: the ratio of the medians, whose bound joins the 95 % intervals of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeship.config import Gate
from edgeship.decide import rulebook
from edgeship.decide.finished_run import FinishedRun, open_run
from edgeship.decide.gate import Beside, judge
from edgeship.decide.loaded_trial import Measured, load
from edgeship.decide.rules import percent
from edgeship.decide.sequence import Spending
from edgeship.errors import DataError, UserInputError
from edgeship.results import Decision, Outcome, Quantiles, Result, Rule, VerdictWord, common_clock

SLOWER = 0.05
"""How much more time the later run's choice may take, as a share, where nothing else is said."""
RULE = "upgrade.latency_p50"
METHOD = "ratio of the medians, each at an end of its 95 % interval"
WORST_FIRST: tuple[VerdictWord, ...] = ("NO-SHIP", "INCONCLUSIVE", "SHIP")
VERDICTS: dict[Outcome, VerdictWord] = {"pass": "SHIP", "fail": "NO-SHIP", "inconclusive": "INCONCLUSIVE"}


class Replacement(Result):
    """The answer for one target."""

    target: str
    verdict: VerdictWord
    sentence: str
    before: str | None
    """What the earlier run chose."""
    after: str | None
    """What would replace it."""
    rules: tuple[Rule, ...] = ()
    """The later run's rules, those against the earlier run's choice (``baseline.…``), and the latency's."""


class Upgrade(Result):
    """Whether one run's choices may replace another's: the worst answer of its targets."""

    verdict: VerdictWord
    targets: tuple[Replacement, ...]


def upgrade(path_a: Path, path_b: Path, slower: float = SLOWER) -> Upgrade:
    """Judge run B in the place of run A.

    Args:
        path_a: The run in the field, its folder or ``result.json``.
        path_b: The run that is to replace it. Its rules decide.
        slower: How much more time its choice may take, as a share of A's median.

    Raises:
        ArtifactError: A run that cannot be read.
        UserInputError: The two have no target in common.
    """
    a, b = open_run(path_a), open_run(path_b)
    before = {item.target_name: item for item in a.result.decisions}
    alone = len(before) == 1 == len(b.result.decisions)
    only = next(iter(before.values())) if alone else None
    pairs = [(only or before.get(item.target_name), item) for item in b.result.decisions]
    found = [_replace(a, one, b, two, slower) for one, two in pairs if one is not None]
    if not found:
        raise UserInputError(
            f"{path_a} and {path_b} have no target in common",
            expected=f"one of {', '.join(before)} in both",
        )
    return Upgrade(verdict=min((item.verdict for item in found), key=WORST_FIRST.index), targets=tuple(found))


def _replace(a: FinishedRun, before: Decision, b: FinishedRun, after: Decision, slower: float) -> Replacement:
    facts = {"target": after.target_name, "before": before.chosen}
    if before.chosen is None:
        why = "the earlier run chose nothing, so there is nothing to compare with"
        return Replacement(**facts, after=after.chosen, verdict="INCONCLUSIVE", sentence=why)
    old = _chosen(a, before)
    trials = [load(b.whole(item.folder)) for item in b.result.trials if item.target_name == after.target_name]
    reference = load(b.whole(b.result.reference.folder))
    gate = b.gate.model_copy(update={"baseline": Path("the earlier run")})
    spending = Spending.of(
        b.result.search.get(after.target_name),
        planned=bool(b.result.config.get("candidates", {}).get("search")),
        earlier=after.earlier,
    )
    try:
        decision = judge(gate, trials, reference, spending, Beside(release=old))
    except DataError as error:
        why = f"the two cannot be paired: {error.found.replace('the release (gate.baseline)', 'the earlier run')}"
        return Replacement(**facts, after=after.chosen, verdict="INCONCLUSIVE", sentence=why)
    names = [item.candidate for item in decision.judged]
    name = decision.chosen or after.chosen or (before.chosen if before.chosen in names else names[0])
    new = next(item for item in trials if item.name == name)
    judged = next(item for item in decision.judged if item.candidate == name)
    rules = (*judged.rules, *_latency(gate, old, new, slower))
    broken = [rule for rule in rules if rule.outcome != "pass"]
    outcome = rulebook.outcome_of(rules)
    against = "its own rules, the limits against the earlier run and the latency"
    said = f"{name} may replace {before.chosen}: {against} hold"
    if broken:
        said = f"{name} in place of {before.chosen}: " + "; ".join(rule.reason for rule in broken)
    return Replacement(**facts, after=name, verdict=VERDICTS[outcome], sentence=said, rules=rules)


def _chosen(run: FinishedRun, decision: Decision) -> Measured:
    place = (decision.target_name, decision.chosen)
    return load(run.whole(next(i.folder for i in run.result.trials if (i.target_name, i.candidate) == place)))


def _latency(gate: Gate, old: Measured, new: Measured, slower: float) -> Iterator[Rule]:
    """The latency of the new choice over the old one's; nothing where neither was timed."""
    one, two = old.trial.latency, new.trial.latency
    if one is None and two is None:
        return
    if one is None or two is None:
        yield _rule("inconclusive", "one of the two runs was not timed", slower)
        return
    clock = common_clock((one, two), gate.clock)
    before, after = one.timed(clock), two.timed(clock)
    if before is None or after is None or one.batch != two.batch:
        yield _rule("inconclusive", "the two runs were not timed by one clock and at one batch", slower)
        return
    disturbed = [item.conditions.machine.busy or item.conditions.changed for item in (one, two)]
    if any(disturbed) and gate.confidence > 0:
        yield _rule("inconclusive", f"a measurement was disturbed: {next(filter(None, disturbed))}", slower)
        return
    yield _slower(before.quantiles, after.quantiles, slower, gate.confidence)


def _slower(before: Quantiles, after: Quantiles, slower: float, confidence: float) -> Rule:
    change = after.p50 / before.p50 - 1
    most = after.interval[1] / before.interval[0] - 1 if confidence > 0 else change
    least = after.interval[0] / before.interval[1] - 1 if confidence > 0 else change
    said = f"the median goes from {before.p50:.4g} to {after.p50:.4g} ms ({change:+.1%}, at most {most:+.1%})"
    outcome: Outcome = "pass" if most <= slower else "fail" if least > slower else "inconclusive"
    return _rule(outcome, f"{said}; {percent(slower)} more is allowed", slower, change, most)


def _rule(
    outcome: Outcome, reason: str, limit: float, measured: float | None = None, bound: float | None = None
) -> Rule:
    return Rule(
        name=RULE, outcome=outcome, measured=measured, bound=bound, limit=limit, unit="share", reason=reason,
        method=METHOD if bound is not None else "",
    )  # fmt: skip
