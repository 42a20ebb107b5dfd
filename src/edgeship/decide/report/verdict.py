"""The verdict, its rules and the candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgeship.charts import row_charts, scatter
from edgeship.decide import rulebook
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import (
    Banner,
    Block,
    Cell,
    Chart,
    Column,
    Fold,
    Prose,
    Row,
    Section,
    Table,
    Tile,
    folded,
)
from edgeship.decide.report.candidate_table import (
    CandidateRow,
    Heading,
    absent_row,
    candidate_row,
    candidate_table,
    headings,
)
from edgeship.decide.report.next_steps import next_steps
from edgeship.decide.report.view import OUTCOME_WORDS, RULE_WORDS, VERDICT_OUTCOME, CandidateView, TargetView
from edgeship.results import Rule, Trial

# --- banner --------------------------------------------------------------------------------------------------


def banner(view: TargetView, *, several: bool) -> Banner:
    """The verdict with the key numbers of the chosen candidate, or of the one nearest to passing."""
    focus = view.focus
    decision = view.decision
    subject = ""
    if focus is not None:
        subject = f"Chosen: {focus.name}" if focus.chosen else f"Nearest to passing: {focus.name}"
    return Banner(
        target=view.name if several else "",
        verdict=decision.verdict,
        outcome=VERDICT_OUTCOME[decision.verdict],
        sentence=decision.sentence,
        subject=subject,
        tiles=tuple(_tiles(view, focus)) if focus is not None else (),
        doubts=view.doubts,
        remarks=decision.remarks,
    )


def next_section(view: TargetView, prefix: str) -> Section | None:
    """What would change the verdict, rule by rule; absent on a SHIP."""
    steps = next_steps(view)
    if not steps:
        return None
    rows = []
    for before, step in zip((None, *steps), steps, strict=False):
        again = before is not None and (before.rule, before.found) == (step.rule, step.found)
        head, found = ("", "") if again else (step.rule, step.found)
        rows.append(Row((Cell(head, strong=True), Cell(found), Cell(step.change), Cell(step.command, code=True))))
    columns = (
        Column("Rule"),
        Column("Found", wide=True),
        Column("What would change it", wide=True),
        Column("Command", wide=True),
    )
    subject = f" of {view.focus.name}, the candidate nearest to passing" if view.focus is not None else ""
    table = Table(f"The rules in the way{subject}", columns, tuple(rows))
    return Section(f"{prefix}next", "What to do next", (table,), short="Next")


def _tiles(view: TargetView, focus: CandidateView) -> Iterator[Tile]:
    trial = focus.trial
    yield from _latency_tiles(view, focus)
    value = focus.metric(view.metric)
    if view.metric is not None and value is not None:
        share = view.share(view.metric)
        drop, bound = focus.drop(view.metric), focus.drop_bound(view.metric)
        rule = focus.rule(rulebook.of(rulebook.MAX_DROP).named(view.metric))
        note = f"drop {numbers.drop_value(drop, share=share)}" if drop is not None else "drop not measured"
        if bound is not None and view.confidence:
            note += f", at most {numbers.drop_value(bound, share=share)}"
        if rule is not None and rule.limit is not None:
            note += f" (limit {numbers.tidy(numbers.drop_value(rule.limit, share=share)).removeprefix('+')})"
        title = numbers.metric_title(view.metric)
        yield Tile(title, numbers.metric_value(value, share=share), note, rule.outcome if rule else "")
    judged = focus.judged
    if judged is not None and judged.agreement is not None:
        rule = focus.rule(rulebook.AGREEMENT)
        yield Tile(
            "Agreement",
            numbers.percent(judged.agreement, 1),
            "same answer as the reference",
            rule.outcome if rule else "",
        )
    if judged is not None and judged.speedup is not None:
        yield Tile("Speed-up", numbers.times(judged.speedup), f"over fp32 on this target, {judged.speedup_words}")
    if trial is not None and trial.build is not None:
        note = f"{trial.engine}, built in {numbers.seconds(trial.build.seconds)}"
        yield Tile("Engine", numbers.size(trial.build.engine.size_bytes), note)


def _latency_tiles(view: TargetView, focus: CandidateView) -> Iterator[Tile]:
    latency = view.latency(focus)
    if latency is None or focus.trial is None or focus.trial.latency is None:
        yield Tile("Latency", "not measured", focus.trial.build.reason if focus.trial and focus.trial.build else "")
        return
    batch = focus.trial.latency.batch
    for quantile, name in (("p50", rulebook.P50), ("p99", rulebook.P99)):
        rule = focus.rule(name)
        note = f"{view.clock} time, batch {batch}"
        if rule is not None and rule.limit is not None:
            note = f"budget {numbers.tidy(numbers.milliseconds(rule.limit))}, {note}"
        value = numbers.milliseconds(getattr(latency, quantile))
        yield Tile(f"Latency {quantile}", value, note, rule.outcome if rule else "")


# --- rules ---------------------------------------------------------------------------------------------------


def rules_section(view: TargetView, prefix: str) -> Section:
    """The rules for the focus candidate, and folded for every other one."""
    blocks: list[Block] = []
    focus = view.focus
    if focus is None or not focus.rules:
        blocks.append(Prose("No rule was judged: the config sets none, or no trial got that far.", missing=True))
    else:
        blocks.append(_rules_table(view, focus))
    folds = [
        Fold(f"{candidate.name}: {candidate.outcome_word}", (_candidate_rules(view, candidate),), candidate.outcome)
        for candidate in view.candidates
        if candidate is not focus
    ]
    blocks += folded(folds, "other candidates, rule by rule")
    if view.confidence:
        lead = (
            f"A rule passes when its one-sided {view.confidence_words} confidence bound is within the limit; when "
            "only the measured value is, it is undecided."
        )
    else:
        lead = "Statistics are off (confidence = 0): measured values are compared with the limits as they are."
    subject = f" for {focus.name}" if focus is not None else ""
    return Section(f"{prefix}rules", f"Rules{subject}", tuple(blocks), short="Rules", lead=lead)


def _candidate_rules(view: TargetView, candidate: CandidateView) -> Block:
    if candidate.rules:
        return _rules_table(view, candidate)
    return Prose(candidate.reason or "Not judged.", missing=True)


def _rules_table(view: TargetView, candidate: CandidateView) -> Table:
    columns = (
        Column("Rule"),
        Column("Measured", number=True),
        Column("Bound", number=True),
        Column("Limit", number=True),
        Column("Against the limit", chart=True),
        Column("Outcome"),
        Column("Reason", wide=True),
    )
    rows = tuple(Row(_rule_cells(view, rule)) for rule in candidate.rules)
    caption = (
        f"Rules judged for {candidate.name}. Dashed: the limit; shaded: the side it allows; bar: from measured to bound"
    )
    return Table(caption, columns, rows)


def _rule_cells(view: TargetView, rule: Rule) -> tuple[Cell, ...]:
    at_least = rulebook.of(rule.name).higher_is_better
    limit = numbers.tidy(view.quantity(rule, rule.limit))
    chart: Cell = Cell("")
    if rule.limit is not None and rule.measured is not None:
        row = row_charts.headroom_row(rule.measured, rule.bound, rule.limit, rule.outcome, at_least=at_least)
        chart = Cell(row)
    reason = rule.reason
    if rule.more_images and str(rule.more_images) not in reason.replace(",", ""):
        reason = f"{reason.rstrip('.')}. About {rule.more_images:,} more labelled images would decide it."
    return (
        Cell(numbers.rule_title(rule.name), strong=True),
        Cell(view.quantity(rule, rule.measured) if rule.measured is not None else "not measured"),
        Cell(view.quantity(rule, rule.bound)),
        Cell(limit if rule.limit is None else f"{'≥' if at_least else '≤'} {limit.removeprefix('+')}"),
        chart,
        Cell(RULE_WORDS[rule.outcome], outcome=rule.outcome),
        Cell(reason, sub=rule.method),
    )


# --- candidates ----------------------------------------------------------------------------------------------


def candidates_section(view: TargetView, prefix: str) -> Section:
    """Every candidate in one table, and latency against the metric."""
    blocks: list[Block] = []
    chart = _scatter(view)
    if chart is not None:
        blocks.append(chart)
    if view.candidates:
        blocks.append(_candidates_table(view))
    else:
        blocks.append(Prose("No candidate was tried.", missing=True))
    return Section(f"{prefix}candidates", "Candidates", tuple(blocks), lead=_latency_lead(view))


def _latency_lead(view: TargetView) -> str:
    trials = [candidate.trial for candidate in view.candidates if candidate.trial is not None]
    measured = [trial for trial in trials if trial.latency is not None]
    if not measured:
        return "Latency was not measured for any candidate."
    batches = sorted({trial.latency.batch for trial in measured if trial.latency is not None})
    where = ", ".join(dict.fromkeys(f"{trial.engine} on {device(trial)}" for trial in measured))
    what = "GPU time by CUDA events" if view.clock == "device" else "host wall time of one synchronized inference"
    batch = " and ".join(str(number) for number in batches)
    return f"Latency is {what}, at batch {batch}, after warm-up: {where}."


def device(trial: Trial) -> str:
    """The device's own name where the engine told it."""
    return trial.build.identity.device if trial.build is not None and trial.build.identity.device else trial.device


def _candidates_table(view: TargetView) -> Table:
    table = candidate_table(view)
    words = f"bound at {view.confidence_words} confidence" if view.confidence else "statistics off"
    caption = f"All candidates. Drop: reference minus candidate, positive is worse; {words}"
    rows = tuple(Row(_cells(row), emphasis=row.chosen) for row in table.rows)
    return Table(caption, _columns(table.headings), rows, sortable=True)


def targets_section(views: tuple[TargetView, ...]) -> Section:
    """The chosen candidate of every target, or the one nearest to passing, side by side."""
    metric = views[0].metric
    rows = []
    for view in views:
        focus = view.focus
        first = (
            Cell(view.name, strong=True, sub=f"{view.clock} time", sort=view.name),
            Cell(view.decision.verdict, outcome=VERDICT_OUTCOME[view.decision.verdict]),
        )
        row = candidate_row(view, focus, metric) if focus is not None else absent_row(view, metric)
        rows.append(Row((*first, *_cells(row)), emphasis=row.chosen))
    caption = "The chosen candidate of each target, or the one nearest to passing. Drop: reference minus candidate"
    name, *figures = _columns(headings(views[0], metric))
    columns = (Column("Target"), Column("Verdict"), replace(name, wide=True), *figures)
    return Section("targets", "Targets side by side", (Table(caption, columns, tuple(rows), sortable=True),), "Targets")


def _columns(heads: Sequence[Heading]) -> tuple[Column, ...]:
    return tuple(Column(head.title, number=head.number) for head in heads)


def _cells(row: CandidateRow) -> tuple[Cell, ...]:
    name, *figures = row.figures
    first = Cell(name.text, code=True, sub=name.note, sort=name.sort)
    return (first, *(Cell(item.text, outcome=item.outcome, sub=item.note, sort=item.sort) for item in figures))


def _scatter(view: TargetView) -> Chart | None:
    metric, share = view.metric, view.share(view.metric)
    reference = view.reference_metric(metric)
    points = []
    for candidate in view.candidates:
        latency, value = view.latency(candidate), candidate.metric(metric)
        if latency is None or value is None or metric is None or not math.isfinite(value):
            continue
        spread = candidate.judged.drop_interval.get(metric) if candidate.judged is not None else None
        known = spread is not None and reference is not None and all(map(math.isfinite, spread))
        interval = (
            (reference - spread[1], reference - spread[0]) if spread and reference is not None and known else None
        )
        shown = numbers.metric_value(value, share=share)
        tip = f"{candidate.name}: p50 {numbers.milliseconds(latency.p50)}, {shown}, {candidate.outcome_word}"
        points.append(
            scatter.Point(candidate.name, latency.p50, value, interval, candidate.outcome, candidate.chosen, tip)
        )
    if not points or metric is None:
        return None
    budget, max_drop = view.limit(rulebook.P50), view.limit(rulebook.of(rulebook.MAX_DROP).named(metric))
    title = numbers.metric_title(metric)
    floor = None
    if max_drop is not None and reference is not None:
        words = numbers.tidy(numbers.drop_value(max_drop, share=share)).removeprefix("+")
        floor = (reference - max_drop, f"allowed drop {words}")
    chart = scatter.Scatter(
        points=tuple(points),
        x_title=f"latency p50, ms ({view.clock} time)",
        y_title=f"{title}, %" if share else title,
        budget=(budget, f"budget {numbers.tidy(numbers.milliseconds(budget))}") if budget is not None else None,
        reference=(reference, f"reference {numbers.metric_value(reference, share=share)}") if reference else None,
        floor=floor,
        factor=100.0 if share else 1.0,
        label=f"{title} against latency. " + "; ".join(point.tip for point in points),
    )
    used = {point.outcome for point in points}
    bars = "Bars: interval of the paired drop. " if any(point.interval for point in points) else ""
    return Chart(
        wide=scatter.draw(chart, 860, 400, "for-wide"),
        narrow=scatter.draw(chart, 360, 340, "for-narrow"),
        caption=f"{title} against latency; up and left is better. {bars}The tinted field is what the gate allows.",
        legend=tuple((outcome, word) for outcome, word in OUTCOME_WORDS.items() if outcome in used),
    )
