"""What to do next, where nothing ships: for each rule in the way, what would change it, and the command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from edgeship.decide import rulebook
from edgeship.decide.report import numbers
from edgeship.decide.report.view import CandidateView, TargetView
from edgeship.results import Rule

MOST_IMAGES = 1_000_000
"""More labelled images than this are not advised."""


@dataclass(frozen=True)
class NextStep:
    """One rule in the way. ``command`` may be empty: then the change is one of the config or the data."""

    rule: str
    found: str
    change: str
    command: str = ""


def next_steps(view: TargetView) -> tuple[NextStep, ...]:
    """The rules in the way of the candidate nearest to passing, those that fail first; empty on a SHIP."""
    focus = view.focus
    if view.decision.verdict == "SHIP":
        return ()
    ship = f"edgeship ship {shlex.quote(view.run.result.config_file)}"
    if focus is None:
        return (NextStep("", "no candidate was tried", "name candidates in [candidates]", ship),)
    broken = [rule for rule in focus.rules if rule.outcome != "pass"]
    in_the_way = sorted(broken, key=lambda rule: rule.outcome != "fail")
    return tuple(step for rule in in_the_way for step in _steps(view, focus, rule, ship))


def _steps(view: TargetView, focus: CandidateView, rule: Rule, ship: str) -> Iterator[NextStep]:
    title, family = numbers.rule_title(rule.name), rulebook.of(rule.name)
    found = _found(view, rule)
    if rule.name == rulebook.TRIAL:
        yield NextStep(title, rule.reason, "remove what stopped this trial; finished stages are reused", ship)
    elif rule.name == rulebook.EMPTY:
        yield NextStep(title, found, "set a limit in [gate], such as latency_p99_ms and max_drop", ship)
    elif family.name == "reference":
        yield NextStep(title, rule.reason, "check the labels, the class order and [preprocess] against training", ship)
    elif rule.measured is None:
        yield NextStep(title, rule.reason, _to_measure(rule), ship)
    elif rule.outcome == "inconclusive":
        yield NextStep(title, found, _to_decide(view, rule), ship)
    elif family.kind == "speed":
        yield from _speed(view, focus, rule, found, ship)
    elif family.kind == "accuracy":
        yield from _accuracy(view, focus, title, found, ship)
    elif family.kind == "precision":
        run = shlex.quote(view.run.folder.resolve().name)
        change = "see which layers are not in the asked-for precision, and what they cost"
        yield NextStep(title, found, change, f"edgeship layers {run}:{shlex.quote(focus.name)}")
    else:
        yield NextStep(title, found, "a smaller engine: INT8 or FP16 candidates, or a smaller model", ship)


def _found(view: TargetView, rule: Rule) -> str:
    """Measured, bound and limit in short."""
    if rule.measured is None or rule.limit is None:
        return rule.reason
    measured, limit = view.quantity(rule, rule.measured), numbers.tidy(view.quantity(rule, rule.limit))
    bound = f", at {view.confidence_words} confidence {view.quantity(rule, rule.bound)}" if _bounded(view, rule) else ""
    word = "at least" if rulebook.of(rule.name).higher_is_better else "at most"
    return f"{measured}{bound}; {word} {limit.removeprefix('+')} is asked for"


def _bounded(view: TargetView, rule: Rule) -> bool:
    return bool(view.confidence) and rule.bound is not None and rule.bound != rule.measured


def _to_measure(rule: Rule) -> str:
    """What makes a rule that was not measured measurable."""
    kind = rulebook.of(rule.name).kind
    if kind == "accuracy":
        return "give labelled images that hold what the rule counts ([evaluation] images and labels)"
    if kind == "speed":
        return "try it where the engine runs: a target with the device, or [target] host"
    return "try it where the engine runs"


def _to_decide(view: TargetView, rule: Rule) -> str:
    """What decides a rule whose bound does not reach."""
    if rulebook.of(rule.name).kind == "speed":
        return (
            "measure again (edgeship ship --fresh) on a quiet machine with fixed clocks, or longer ([benchmark] min_s)"
        )
    images = max((item.trial.evaluation.images for item in view.run.trials if item.trial.evaluation), default=0)
    if rule.more_images and rule.more_images <= MOST_IMAGES:
        return (
            f"label about {rule.more_images:,} more images ({images:,} are there): measured values like these would "
            "then decide it"
        )
    return "label more images, or give the limit more room if the vehicle allows it"


def _speed(view: TargetView, focus: CandidateView, rule: Rule, found: str, ship: str) -> Iterator[NextStep]:
    title = numbers.rule_title(rule.name)
    faster = _fastest(view)
    other = faster.rule(rule.name) if faster is not None and faster.name != focus.name else None
    if faster is not None and other is not None and other.outcome == "pass":
        reasons = "; ".join(numbers.rule_title(item.name) for item in faster.rules if item.outcome != "pass")
        yield NextStep(title, found, f"{faster.name} is fast enough; in its way: {reasons}", "")
    if not view.run.result.config.get("candidates", {}).get("search") and view.search is None:
        yield NextStep(title, found, "look for a mixed-precision engine: [candidates] search = true", ship)
    run = shlex.quote(view.run.folder.resolve().name)
    where = f"edgeship layers {run}:{shlex.quote(focus.name)}"
    yield NextStep(title, found, "see which layers take the time; a smaller input or model makes them cheaper", where)


def _fastest(view: TargetView) -> CandidateView | None:
    timed = [(latency.p50, item) for item in view.candidates if (latency := view.latency(item)) is not None]
    return min(timed, key=lambda pair: pair[0])[1] if timed else None


def _accuracy(view: TargetView, focus: CandidateView, title: str, found: str, ship: str) -> Iterator[NextStep]:
    config = view.run.result.config
    precision = focus.trial.candidate.precision if focus.trial is not None else ""
    if precision in ("fp32", "fp16"):
        change = "the network itself misses it at this precision: train it further, or check labels and [preprocess]"
        yield NextStep(title, found, change, ship)
        return
    if view.search is None and not config.get("candidates", {}).get("search"):
        change = "keep the layers that suffer most in high precision: [candidates] search = true"
        yield NextStep(title, found, change, ship)
    calibration = config.get("calibration", {})
    if calibration.get("method") != "auto":
        yield NextStep(title, found, 'compare the calibration methods: [calibration] method = "auto"', ship)
    count = view.run.calibrated.frames if view.run.calibrated is not None else 0
    yield NextStep(title, found, f"calibrate on more frames that look like the deployment ({count:,} were used)", ship)
