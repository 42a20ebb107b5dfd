"""The order of the page, and its closing sections: stages, environment, how to reproduce."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from edgeship.charts import row_charts
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import (
    accuracy,
    answers,
    engine_layers,
    export_and_calibration,
    inside_engine,
    numbers,
    pictures,
    repair,
    timing,
    training,
    trend,
    verdict,
)
from edgeship.decide.report.blocks import Block, Cell, Code, Column, Facts, Fold, Page, Prose, Row, Section, Table
from edgeship.decide.report.view import TargetView, targets
from edgeship.results import RunResult, StageRun

PER_TARGET: tuple[Callable[[TargetView, str], Section | None], ...] = (
    verdict.next_section,
    verdict.rules_section,
    verdict.candidates_section,
    timing.latency_section,
    timing.baseline_section,
    accuracy.accuracy_section,
    answers.answers_section,
    pictures.changed_section,
    engine_layers.audit_section,
    inside_engine.inside_section,
    engine_layers.sensitivity_section,
    engine_layers.search_section,
    trend.trend_section,
)


def assemble(run: FinishedRun) -> Page:
    """The whole page of a run."""
    views = targets(run)
    several = len(views) > 1
    sections: list[Section | None] = [verdict.targets_section(views)] if several else []
    for view in views:
        prefix = f"target-{view.number}-" if several else ""
        for build in PER_TARGET:
            section = build(view, prefix)
            sections.append(_named(section, view.name) if several else section)
    shared = [
        training.training_section(run),
        repair.repair_section(run),
        export_and_calibration.calibration_section(run),
        export_and_calibration.export_section(run),
        _stages(run.result.stages),
        _environment(run.result.environment),
        _reproduce(run.result),
    ]
    sections += shared
    return Page(
        title=run.result.title,
        subtitle=" · ".join(_subtitle(run)),
        lineage=tuple(_lineage(run)),
        banners=tuple(verdict.banner(view, several=several) for view in views),
        sections=tuple(section for section in sections if section is not None),
    )


def _lineage(run: FinishedRun) -> Iterator[tuple[str, str]]:
    """Version, commit and digests: which model, and on which data."""
    found = run.result.lineage
    if found.version:
        yield "Version", found.version
    if found.commit:
        yield "Commit", found.commit[:12] + (", with changes" if found.changed else "")
    for name, digest in found.digests.items():
        yield name.capitalize(), digest[:12]


def _subtitle(run: FinishedRun) -> Iterator[str]:
    """Where it was tried, on how much, and when."""
    trials = [item.trial for item in run.trials]
    devices = {verdict.device(trial): None for trial in trials if trial.build is not None}
    if devices:
        engines = {trial.engine: None for trial in trials}
        yield f"{', '.join(engines)} on {', '.join(devices)}"
    images = {trial.evaluation.images for trial in trials if trial.evaluation is not None}
    if images:
        yield f"{max(images):,} labelled images"
    yield run.result.finished.replace("T", " ").replace("+00:00", " UTC")


def _named(section: Section | None, target: str) -> Section | None:
    """A section's title with its target's name."""
    if section is None:
        return None
    return Section(
        section.id,
        f"{target}: {section.title}",
        section.blocks,
        f"{target}: {section.short or section.title}",
        section.lead,
    )


def _stages(stages: Sequence[StageRun]) -> Section:
    if not stages:
        return Section("stages", "Stage times", (Prose("Stage times were not measured.", missing=True),))
    longest = max(stage.seconds for stage in stages) or 1.0
    rows = [
        Row(
            (
                Cell(stage.name, code=True),
                Cell(row_charts.bar_row(stage.seconds / longest, "quiet" if stage.cached else "")),
                Cell(numbers.seconds(stage.seconds)),
                Cell("reused" if stage.cached else "ran"),
            )
        )
        for stage in stages
    ]
    columns = (
        Column("Stage"),
        Column("Share of the longest", chart=True, wide=True),
        Column("Time", number=True),
        Column("This run"),
    )
    total = sum(stage.seconds for stage in stages)
    reused = sum(stage.cached for stage in stages)
    caption = f"{len(rows)} stages in {numbers.seconds(total)}; {reused} reused from an earlier run"
    return Section("stages", "Stage times", (Table(caption, columns, tuple(rows), compact=True),), short="Stages")


def _environment(values: Mapping[str, object]) -> Section:
    blocks: list[Block] = []
    items = tuple(_flat(values))
    if items:
        blocks.append(Facts(items))
    else:
        blocks.append(Prose("The environment was not recorded.", missing=True))
    return Section("environment", "Environment", tuple(blocks))


def _flat(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Names and values, with one level of nested tables set out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((str(inner), _shown(item)) for inner, item in value.items())
        else:
            yield name, _shown(value)


def _shown(value: object) -> str:
    if value is None or value == "":
        return numbers.ABSENT
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value) or numbers.ABSENT
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items()) or numbers.ABSENT
    return json.dumps(value, default=str, ensure_ascii=False)


def _reproduce(result: RunResult) -> Section:
    blocks: list[Block] = [Code(f"edgeship ship {shlex.quote(result.config_file)}", "Commands")]
    if result.config_text:
        blocks.append(Fold(f"The config, {result.config_file}", (Code(result.config_text, "Config"),)))
    return Section("reproduce", "How to reproduce", tuple(blocks), short="Reproduce")
