"""Finished runs read again: judged by other rules, or compared with one another. Nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from edgeship import metrics
from edgeship.config import Gate, History
from edgeship.decide import rulebook
from edgeship.decide.drops import Reference, measure
from edgeship.decide.finished_run import FinishedRun, open_run
from edgeship.decide.gate import Beside, judge
from edgeship.decide.loaded_trial import Measured, load
from edgeship.decide.released import STAGE as RELEASE
from edgeship.decide.released import Release, read_release
from edgeship.decide.sequence import Spending
from edgeship.errors import ArtifactError, DataError, UserInputError
from edgeship.metrics import paired
from edgeship.results import Decision, Result, Rule, RunResult, TrialSummary

Direction = Literal["better", "worse", "same", "unsure"]


def judge_again(path: Path, gate: Gate, history: Path | None = None) -> tuple[Decision, ...]:
    """Judge a finished run by other rules, one decision for each target.

    Args:
        path: The run's folder or ``result.json``.
        gate: The rules.
        history: Where ``gate.baseline`` finds an entry of the history; None: as the run's config says, from the folder
            that holds the run's.

    Raises:
        ArtifactError: The result, or a trial that it names, is absent, changed or malformed.
        BundleError: ``gate.baseline`` is another one than the run's and not a bundle that can be compared with.
        UserInputError: A rule about a metric or class that was not measured.
    """
    run = open_run(path)
    reference, beside = load(run.whole(run.result.reference.folder)), Beside(release=_release(run, gate, history))
    found = []
    for target in dict.fromkeys(item.target_name for item in run.result.trials):
        trials = [load(run.whole(item.folder)) for item in run.result.trials if item.target_name == target]
        before = next((item.earlier for item in run.result.decisions if item.target_name == target), 0)
        search, planned = run.result.search.get(target), bool(run.result.config.get("candidates", {}).get("search"))
        spending = Spending.of(search, planned=planned, earlier=before)
        found.append(judge(gate, trials, reference, spending, beside))
    if not found:
        raise ArtifactError(f"{path} names no trial", do="run edgeship ship again")
    return tuple(found)


def _release(run: FinishedRun, gate: Gate, history: Path | None) -> Measured | None:
    """The release that the rules name: as the run read it where they name the same, else from where it is kept."""
    if gate.baseline is None:
        return None
    kept = run.stage_folder(RELEASE) if gate.baseline == run.gate.baseline else None
    if kept is not None:
        return load(kept)
    named = run.result.config.get("history", {}).get("file", History().file)
    file = history if history is not None else run.folder.resolve().parent / named
    return read_release(Release(gate.baseline, file, run.result.title))


class Change(Result):
    """One figure in two runs. ``interval`` bounds the change of a metric where both runs share their images."""

    name: str
    before: float | None
    after: float | None
    unit: str = ""
    interval: tuple[float, float] | None = None
    direction: Direction = "same"


class CandidateChange(Result):
    """One candidate in two runs."""

    candidate: str
    target: str
    other_target: str
    changes: tuple[Change, ...]
    rules: tuple[Change, ...] = ()
    """What each rule of both runs measured. ``direction`` says whether it came nearer to its limit."""
    classes: tuple[Change, ...] = ()
    """Metrics of single classes, ``ap/person``: the largest change first, those without one last."""


class Comparison(Result):
    """What changed from run A to run B."""

    verdicts: tuple[str, str]
    chosen: tuple[str | None, str | None]
    candidates: tuple[CandidateChange, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    paired: bool
    """Whether both runs were evaluated on the same images, so that changes of metrics have intervals."""
    settings: tuple[str, ...] = ()
    """Settings of the config that differ, ``gate.latency_p50_ms: 4.0 → 3.0``."""
    environment: tuple[str, ...] = ()
    sentence: str


def compare(path_a: Path, path_b: Path, confidence: float = 0.95) -> Comparison:
    """Compare two runs: two versions of a model, or two targets.

    Candidates are matched by name and target; where the two runs have one target each, by name alone. Latency and
    size are compared as measured; metrics, of single classes too, with an interval where the images are the same.

    Raises:
        ArtifactError: A run that cannot be read.
        UserInputError: No candidate is in both runs.
    """
    run_a, run_b = open_run(path_a), open_run(path_b)
    a, b = run_a.result, run_b.result
    names_a, names_b = _by_name(a), _by_name(b)
    if len({target for _, target in names_a}) == 1 == len({target for _, target in names_b}):
        target = next(iter(names_a))[1]
        names_b = {(name, target): item for (name, _), item in names_b.items()}
    common = [key for key in names_a if key in names_b]
    if not common:
        raise UserInputError(
            f"{path_a} and {path_b} have no candidate in common",
            expected=f"one of {', '.join(sorted({name for name, _ in names_a}))} in both",
        )
    found, shared = [], False
    for key in common:
        one, two = names_a[key], names_b[key]
        pair = load(run_a.whole(one.folder)), load(run_b.whole(two.folder))
        before, after = (_class_metrics(item) for item in pair)
        names = sorted(one.metrics.keys() & two.metrics.keys())
        intervals = _intervals(*pair, names, sorted(before.keys() & after.keys()), confidence)
        shared = shared or intervals is not None
        found.append(
            CandidateChange(
                candidate=one.candidate,
                target=one.target_name,
                other_target=two.target_name,
                changes=(*_costs(one, two), *_metrics(one.metrics, two.metrics, intervals or {})),
                rules=tuple(_rules(_judged(a, one), _judged(b, two))),
                classes=tuple(sorted(_metrics(before, after, intervals or {}), key=_size, reverse=True)),
            )
        )
    return Comparison(
        verdicts=(a.verdict, b.verdict),
        chosen=(a.chosen, b.chosen),
        candidates=tuple(found),
        only_a=tuple(name for name, target in names_a if (name, target) not in names_b),
        only_b=tuple(name for name, target in names_b if (name, target) not in names_a),
        paired=shared,
        settings=tuple(_different(a.config, b.config)),
        environment=tuple(_different(a.environment, b.environment)),
        sentence=_sentence(a, b, found),
    )


def _by_name(run: RunResult) -> dict[tuple[str, str], TrialSummary]:
    found: dict[tuple[str, str], TrialSummary] = {}
    for item in run.trials:
        found.setdefault((item.candidate, item.target_name), item)
    return found


def _class_metrics(item: Measured) -> dict[str, float]:
    """The metrics of every class, ``ap/person``; detection's by size are among them."""
    evaluation = item.trial.evaluation
    per_class = evaluation.per_class if evaluation is not None else {}
    return {f"{metric}/{name}": value for metric, values in per_class.items() for name, value in values.items()}


def _costs(one: TrialSummary, two: TrialSummary) -> Iterable[Change]:
    """Latency, where both have it by the same clock, and engine size."""
    if one.latency_ms is not None and two.latency_ms is not None and one.latency_ms.clock == two.latency_ms.clock:
        for label in ("p50", "p90", "p99"):
            before, after = getattr(one.latency_ms, label), getattr(two.latency_ms, label)
            yield _cost(f"latency {label}", before, after, "ms")
    yield _cost("engine size", one.engine_mib, two.engine_mib, "MiB")


def _metrics(
    before: dict[str, float], after: dict[str, float], intervals: dict[str, tuple[float, float]]
) -> Iterable[Change]:
    for name in sorted(before.keys() | after.keys()):
        change = Change(name=name, before=before.get(name), after=after.get(name), interval=intervals.get(name))
        yield change.model_copy(update={"direction": _metric_direction(change)})


def _judged(run: RunResult, item: TrialSummary) -> dict[str, Rule]:
    """The rules of one candidate by name."""
    decisions = [decision for decision in run.decisions if decision.target_name == item.target_name]
    found = [judged for decision in decisions for judged in decision.judged if judged.candidate == item.candidate]
    return {rule.name: rule for judged in found for rule in judged.rules}


def _rules(before: dict[str, Rule], after: dict[str, Rule]) -> Iterable[Change]:
    """The rules of both runs, each as its family is read: lower or higher is better."""
    for name in (name for name in before if name in after):
        one, two, family = before[name], after[name], rulebook.of(name)
        if one.measured is None and two.measured is None:
            continue
        yield _cost(name, one.measured, two.measured, one.unit or family.unit, higher=family.higher_is_better)


def _size(change: Change) -> float:
    return -1.0 if change.before is None or change.after is None else abs(change.after - change.before)


def _cost(name: str, before: float | None, after: float | None, unit: str, *, higher: bool = False) -> Change:
    """A figure without an interval, better where it is lower, or higher; within 2 % it is the same."""
    direction: Direction = "same"
    if before is None or after is None:
        direction = "unsure"
    elif not math.isclose(before, after, rel_tol=0.02):
        direction = "better" if (after > before) == higher else "worse"
    return Change(name=name, before=before, after=after, unit=unit, direction=direction)


def _metric_direction(change: Change) -> Direction:
    if change.before is None or change.after is None:
        return "unsure"
    if change.before == change.after:
        return "same"
    if change.interval is None:
        return "unsure"
    low, high = change.interval
    return "better" if low > 0 else "worse" if high < 0 else "unsure"


def _intervals(
    a: Measured, b: Measured, names: list[str], of_classes: list[str], confidence: float
) -> dict[str, tuple[float, float]] | None:
    """Bounds of B minus A by metric; None where the two were not evaluated on the same images."""
    if not a.records or not b.records:
        return None
    try:
        paired.require_same_images(a.records, b.records)
    except DataError:
        return None
    examples = metrics.task_of(a.records).summarize(a.records).examples
    drops = measure(
        Reference(a.records, confidence, 1000, examples), b.records, [*names, *of_classes], frozenset(names)
    )
    return {
        name: (-drop.interval.upper, -drop.interval.lower)
        for name, drop in drops.items()
        if math.isfinite(drop.interval.upper) and math.isfinite(drop.interval.lower)
    }


def _different(a: object, b: object, place: str = "") -> Iterable[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys(), key=str):
            yield from _different(a.get(key), b.get(key), f"{place}.{key}" if place else str(key))
    elif a != b:
        yield f"{place}: {_short(a)} → {_short(b)}"


def _short(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _sentence(a: RunResult, b: RunResult, found: list[CandidateChange]) -> str:
    verdict = f"{a.verdict} → {b.verdict}" if a.verdict != b.verdict else f"{a.verdict} in both"
    worse = [
        f"{item.candidate} {change.name}" for item in found for change in item.changes if change.direction == "worse"
    ]
    better = sum(change.direction == "better" for item in found for change in item.changes)
    parts = [verdict, f"{better} figures better", f"{len(worse)} worse"]
    return ", ".join(parts) + (f" ({', '.join(worse[:4])})" if worse else "") + "."
