"""What each candidate lost: by metric, by object size, by class with the critical ones first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeship.charts import row_charts
from edgeship.charts import scale as scales
from edgeship.decide import rulebook
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Column, Fold, Heading, Prose, Row, Section, Table, folded
from edgeship.decide.report.view import CandidateView, TargetView

SIZES = ("_small", "_medium", "_large")
FIRST = 16
"""Classes shown before the rest is folded."""
OTHERS = 8
"""Classes shown for a candidate that is not in focus."""


@dataclass(frozen=True)
class _Line:
    """One row: what, the reference's and the candidate's value, the drop and how it was judged."""

    name: str
    reference: float | None
    value: float | None
    drop: float
    interval: tuple[float, float] | None
    limit: float | None
    outcome: str
    examples: int | None = None
    critical: bool = False


def accuracy_section(view: TargetView, prefix: str) -> Section | None:
    """Drops of the focus candidate, and folded those of the others."""
    measured = [candidate for candidate in view.candidates if candidate.judged is not None and candidate.judged.drop]
    if not measured:
        if not view.candidates:
            return None
        missing = Prose("Accuracy was not measured: the config names no evaluation images.", missing=True)
        return Section(f"{prefix}accuracy", "Accuracy", (missing,))
    focus = view.focus if view.focus in measured else measured[0]
    assert focus is not None
    blocks = _blocks(view, focus, FIRST, with_rest=True)
    folds: list[Fold] = []
    for candidate in measured:
        if candidate is not focus:
            inside = tuple(_blocks(view, candidate, OTHERS, with_rest=False))
            telling = not folds and _plain(focus) and not _plain(candidate)
            folds.append(Fold(f"{candidate.name}: {_short(view, candidate)}", inside, candidate.outcome, telling))
    blocks += folded(folds, "other candidates, drop by drop")
    return Section(f"{prefix}accuracy", f"Accuracy of {focus.name}", tuple(blocks), short="Accuracy", lead=_lead(focus))


def _lead(focus: CandidateView) -> str:
    evaluation = focus.trial.evaluation if focus.trial is not None else None
    words = [f"Paired with the reference on the same {evaluation.images:,} images."] if evaluation is not None else []
    if evaluation is not None and evaluation.labels:
        words.append(f"Labels: {evaluation.labels}.")
    words.append("A drop is how much worse the candidate is than the reference.")
    judged = focus.judged
    if judged is not None and judged.agreement is not None:
        words.append(f"Both give the same answer on {numbers.percent(judged.agreement)} of them.")
    if judged is not None and judged.score_shift is not None:
        shift = numbers.fixed(judged.score_shift, 4, sign=True)
        words.append(f"Confidence scores moved by {shift} on average (candidate minus reference).")
    if evaluation is not None and evaluation.skipped:
        words.append(f"{len(evaluation.skipped)} unreadable images were left out, as the config allows.")
    return " ".join(words)


def _plain(candidate: CandidateView) -> bool:
    """Whether a candidate computes as the reference does, so that its drops tell little."""
    return candidate.trial is not None and candidate.trial.candidate.precision == "fp32"


def _short(view: TargetView, candidate: CandidateView) -> str:
    drop = candidate.drop(view.metric)
    if drop is None or view.metric is None:
        return candidate.outcome_word
    return f"{numbers.metric_title(view.metric)} {numbers.drop_value(drop, share=view.share(view.metric))}"


def _blocks(view: TargetView, candidate: CandidateView, first: int, *, with_rest: bool) -> list[Block]:
    if not view.tasks:
        return _task_blocks(view, candidate, "", first, with_rest=with_rest)
    blocks: list[Block] = []
    for task in view.tasks:
        blocks += [Heading(task), *_task_blocks(view, candidate, f"{task}.", first, with_rest=with_rest)]
    return blocks


def _task_blocks(
    view: TargetView, candidate: CandidateView, prefix: str, first: int, *, with_rest: bool
) -> list[Block]:
    """What one task lost; ``prefix`` begins the names of its metrics and classes where there are several."""
    blocks: list[Block] = []
    lines = [line for line in _metric_lines(view, candidate) if line.name.startswith(prefix)]
    plain = [line for line in lines if not line.name.endswith(SIZES)]
    sized = [line for line in lines if line.name.endswith(SIZES)]
    if plain:
        blocks.append(_table(view, plain, "Metric", f"Metrics of {candidate.name} against the reference"))
    if sized:
        caption = "By object size, with the areas of the COCO protocol: small < 32² ≤ medium < 96² ≤ large pixels"
        blocks += [Heading("By object size"), _table(view, sized, "Metric", caption)]
    for metric, classes in (candidate.judged.class_drop if candidate.judged is not None else {}).items():
        if not metric.startswith(prefix):
            continue
        blocks += _class_blocks(view, candidate, metric, classes, first, with_rest=with_rest)
    return blocks


def _metric_lines(view: TargetView, candidate: CandidateView) -> list[_Line]:
    judged = candidate.judged
    lines = []
    for name in view.metrics:
        if judged is None or name not in judged.drop:
            continue
        rule = candidate.rule(rulebook.of(rulebook.MAX_DROP).named(name))
        lines.append(
            _Line(
                name,
                view.reference_metric(name),
                candidate.metric(name),
                judged.drop[name],
                judged.drop_interval.get(name),
                rule.limit if rule is not None else None,
                rule.outcome if rule is not None else "",
            )
        )
    return lines


def _class_blocks(
    view: TargetView, candidate: CandidateView, metric: str, classes: dict[str, float], first: int, *, with_rest: bool
) -> list[Block]:
    lines = sorted(_class_lines(view, candidate, metric, classes), key=lambda line: (not line.critical, -line.drop))
    critical = sum(line.critical for line in lines)
    cut = max(first, critical)
    head, rest = lines[:cut], lines[cut:]
    if rest and len(rest) <= 4:
        head, rest = lines, []
    title = numbers.metric_title(metric)
    order = "critical classes first, then the largest drops" if critical else "the largest drops first"
    caption = f"Drop of {title} by class, {order}"
    if rest and not with_rest:
        caption += f"; {len(rest)} classes with smaller drops left out"
    heading = Heading(f"By class: {title}")
    blocks: list[Block] = [heading, _table(view, head, "Class", caption, axis_lines=lines)]
    if rest and with_rest:
        table = _table(view, rest, "Class", f"Drop of {title}, the other classes", axis_lines=lines)
        blocks.append(Fold(f"The other {len(rest)} classes", (table,)))
    return blocks


def _class_lines(view: TargetView, candidate: CandidateView, metric: str, classes: dict[str, float]) -> list[_Line]:
    reference = view.run.reference.trial.evaluation
    evaluation = candidate.trial.evaluation if candidate.trial is not None else None
    before = reference.per_class.get(metric, {}) if reference is not None else {}
    after = evaluation.per_class.get(metric, {}) if evaluation is not None else {}
    examples = evaluation.examples if evaluation is not None else {}
    intervals = candidate.judged.class_drop_interval.get(metric, {}) if candidate.judged is not None else {}
    lines = []
    for name, drop in classes.items():
        rule = candidate.rule(rulebook.of(rulebook.CRITICAL).named(name))
        critical = name in view.run.gate.critical or rule is not None
        lines.append(
            _Line(
                name,
                before.get(name),
                after.get(name),
                drop,
                intervals.get(name),
                rule.limit if rule is not None else None,
                rule.outcome if rule is not None else "",
                examples.get(name),
                critical,
            )
        )
    return lines


def _table(
    view: TargetView, lines: Sequence[_Line], what: str, caption: str, axis_lines: Sequence[_Line] | None = None
) -> Table:
    metrics = what == "Metric"
    share = all(
        numbers.is_share([value for value in (line.reference, line.value) if value is not None]) for line in lines
    )
    axis = _axis(axis_lines or lines, share=share)
    with_limits = any(line.limit is not None for line in axis_lines or lines)
    columns = [Column(what)]
    if not metrics:
        columns.append(Column("Examples", number=True))
    columns += [Column(name, number=True) for name in ("Reference", "Candidate", "Drop", "Interval")]
    unit = "Drop, pp" if share else "Drop"
    columns.append(Column(unit, chart=True, wide=True, head=row_charts.scale_row(axis)))
    if with_limits:
        columns += [Column("Limit", number=True), Column("Outcome")]
    rows = []
    for line in lines:
        drop = line.drop * 100 if share else line.drop
        pair = line.interval
        interval = ((pair[0] * 100, pair[1] * 100) if share else pair) if pair is not None else None
        limit = line.limit * 100 if share and line.limit is not None else line.limit
        name = numbers.metric_title(line.name) if metrics else line.name
        cells = [Cell(name, strong=line.critical, sub="critical" if line.critical else "")]
        if not metrics:
            cells.append(Cell(f"{line.examples:,}" if line.examples is not None else numbers.ABSENT))
        cells += [
            Cell(numbers.metric_value(line.reference, share=share)),
            Cell(numbers.metric_value(line.value, share=share)),
            Cell(numbers.drop_value(line.drop, share=share)),
            Cell(_interval(line.interval, share=share)),
            Cell(row_charts.interval_row(axis, drop, interval, limit, line.outcome or "plain")),
        ]
        if with_limits:
            shown = numbers.tidy(numbers.drop_value(line.limit, share=share)).removeprefix("+")
            cells.append(Cell(f"≤ {shown}" if line.limit is not None else ""))
            word = {"pass": "pass", "fail": "fail", "inconclusive": "undecided"}.get(line.outcome, "")
            cells.append(Cell(word, outcome=line.outcome))
        rows.append(Row(tuple(cells)))
    words = f"; intervals at {view.confidence_words} a side" if view.confidence else "; no intervals: statistics off"
    return Table(caption + words, tuple(columns), tuple(rows), compact=not metrics)


def _axis(lines: Sequence[_Line], *, share: bool) -> row_charts.Axis:
    values = [0.0]
    for line in lines:
        values += [line.drop, *(line.interval or ())]
        if line.limit is not None:
            values.append(line.limit)
    factor = 100.0 if share else 1.0
    low, high = scales.padded(
        [value * factor for value in values if math.isfinite(value)], 0.04, least=0.4 if share else 0.0
    )
    return row_charts.axis(low, high, 6)


def _interval(interval: tuple[float, float] | None, *, share: bool) -> str:
    if interval is None:
        return numbers.ABSENT
    if share:
        return f"{numbers.points(interval[0], unit=False)} … {numbers.points(interval[1], unit=False)}"
    return f"{numbers.significant(interval[0])} … {numbers.significant(interval[1])}"
