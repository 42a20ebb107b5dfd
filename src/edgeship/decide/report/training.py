"""What quantization-aware training did, and what it gained over calibration alone."""

from __future__ import annotations

from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Column, Facts, Fold, Prose, Row, Section, Table
from edgeship.results import Trained, TrialSummary

CALIBRATED, TRAINED = "int8", "int8-qat"


def training_section(run: FinishedRun) -> Section | None:
    """The training's facts, its curve, and metric and time beside calibrated INT8; None where nothing was trained."""
    found = run.trained
    if found is None:
        return None
    blocks: list[Block] = [_facts(run, found)]
    gains = _gains(run)
    if gains is not None:
        blocks.append(gains)
    blocks.append(Fold("The held-out loss", (_curve(found),)))
    blocks += [Prose(note) for note in found.notes]
    lead = "" if found.improved else "No trained state was better than calibration alone: int8-qat is not shipped."
    return Section("training", "Training", tuple(blocks), lead=lead)


def _facts(run: FinishedRun, found: Trained) -> Facts:
    missed = f"; not: {', '.join(found.not_rounded[:10])}" if found.not_rounded else ""
    pairs = [
        ("Trained", f"{found.how}, {found.steps:,} steps on {_where(found)}, {numbers.seconds(found.seconds)}"),
        ("Kept", f"step {found.best_step:,}"),
        ("Judged on", found.judged_on),
        ("Before and after", f"{found.held_out_before:.4g} and {found.held_out_after:.4g}"),
        ("Rounded in training", f"{found.rounded} activations, {found.weighted} weights{missed}"),
        ("Deployed graph against the trained model", f"{numbers.fixed(found.deployed_snr_db, 1)}\u00a0dB"),
    ]
    summary = next((trial for trial in run.result.trials if trial.candidate == TRAINED), None)
    graph = run.graph(summary) if summary is not None else None
    if graph is not None:
        stays = ", ".join(list(graph.in_float)[:10]) or "none"
        pairs.append(("Products that stay in float", f"{stays} (of {graph.products})"))
    return Facts(tuple(pairs))


def _where(found: Trained) -> str:
    if found.processes == 1:
        return found.device
    return f"{found.processes} processes from {found.device} on, each with a batch of its own"


def _gains(run: FinishedRun) -> Table | None:
    """Metric and median time of trained INT8 beside calibrated INT8, on every target that has both."""
    trials = {(trial.target_name, trial.candidate): trial for trial in run.result.trials}
    rows = []
    for (target, name), trained in trials.items():
        plain = trials.get((target, CALIBRATED))
        if name != TRAINED or plain is None:
            continue
        for metric in trained.metrics.keys() & plain.metrics.keys() & trained.drop.keys():
            before, after = plain.metrics[metric], trained.metrics[metric]
            share = numbers.is_share([before, after])
            figures = (numbers.metric_value(before, share=share), numbers.metric_value(after, share=share))
            gained = numbers.points(after - before) if share else numbers.fixed(after - before, 4, sign=True)
            values = (target, numbers.metric_title(metric), *figures, gained, _ms(plain), _ms(trained))
            rows.append(Row(tuple(Cell(value) for value in values)))
    columns = (
        Column("Target"),
        Column("Metric"),
        Column("int8", number=True),
        Column("int8-qat", number=True),
        Column("Gained", number=True),
        Column("int8, median", number=True),
        Column("int8-qat, median", number=True),
    )
    return Table("Trained beside calibrated INT8", columns, tuple(rows)) if rows else None


def _ms(trial: TrialSummary) -> str:
    return numbers.milliseconds(trial.latency_ms.p50 if trial.latency_ms is not None else None)


def _curve(found: Trained) -> Table:
    columns = (Column("Step", number=True), Column("Held out", number=True), Column("Training loss", number=True))
    rows = tuple(
        Row(
            (
                Cell(f"{point.step:,}"),
                Cell(f"{point.held_out:.4g}"),
                Cell("" if point.loss is None else f"{point.loss:.4g}"),
            ),
            emphasis=point.step == found.best_step,
        )
        for point in found.curve
    )
    return Table("The state with the least held-out loss is kept; step 0 is calibrated INT8", columns, rows)
