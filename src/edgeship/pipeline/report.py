"""What people read of a run: the report, the Markdown summary, the JUnit file and the lines for the terminal."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeship.decide import junit
from edgeship.decide.report import (
    Evidence,
    SearchFound,
    SearchStep,
    Tried,
    terminal_summary,
    write_report,
    write_summary,
)
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.changes import changed_images
from edgeship.pipeline.decide import bundle_places, decision_of, title
from edgeship.pipeline.environment import environment
from edgeship.pipeline.prepare import EXPORT, PARITY, PREFLIGHT, SLIM
from edgeship.pipeline.stages import Run, Step
from edgeship.pipeline.target_trials import Search
from edgeship.pipeline.trials import REFERENCE
from edgeship.results import LayerNoise


def write_reports(run: Run) -> tuple[Any, ...]:
    """Write ``report.html``, ``summary.md`` and ``junit.xml``; return the lines for the terminal."""
    evidence = evidence_of(run)
    write_report(evidence, run.folder / "report.html")
    write_summary(evidence, run.folder / "summary.md")
    junit.write(evidence.decisions, run.folder / "junit.xml")
    bundles = bundle_places(run)
    places = {"report": run.folder / "report.html", "result": run.folder / "result.json"}
    places |= {f"bundle {name}" if len(bundles) > 1 else "bundle": place for name, place in bundles.items()}
    return tuple(terminal_summary(evidence, {label: _near(place) for label, place in places.items()}))


def evidence_of(run: Run) -> Evidence:
    """All that the report shows, as it stands in the run."""
    reference, source = run.result(REFERENCE), run.config.file
    _, base, base_folder = reference.trials[0]
    metric = next(iter(run.config.gate.max_drop), None)
    return Evidence(
        title=title(run),
        decisions=tuple(decision_of(run, trials) for trials in run.targets),
        trials=tuple(Tried(trial, folder) for target in run.targets for _, trial, folder in target.trials),
        reference=Tried(base, base_folder),
        config=source.read_text(encoding="utf-8") if source.is_file() else "",
        confidence=run.config.gate.confidence,
        clock=run.config.gate.clock,
        critical=tuple(run.config.gate.critical),
        exported=run.result(EXPORT),
        slimmed=run.result(SLIM),
        preflight=run.result(PREFLIGHT),
        parity=run.result(PARITY),
        calibrated=run.result(CALIBRATE) if CALIBRATE.needed(run) else None,
        calibrated_folder=run.folders.get(CALIBRATE.name),
        quantized={target.name: target.quantized for target in run.targets},
        stages=tuple(run.stages),
        environment=environment(),
        reproduce=(f"edgeship ship {source.name}",),
        finished=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        searches={
            target.name: search_told(target.search, metric) for target in run.targets if target.search is not None
        },
        changed={
            target.name: changed_images(run, reference, target, decision_of(run, target)) for target in run.targets
        },
    )


def search_told(search: Search, metric: str | None) -> SearchFound:
    """A search as the report shows it; ``metric``: whose drop stands beside each attempt."""
    steps = tuple(
        SearchStep(
            candidate=item.candidate,
            kept=len(item.keep),
            where=item.where,
            drop=item.drop.get(metric) if metric is not None else None,
            metric=metric or "",
            latency_ms=item.latency_ms,
            outcome=item.outcome,
            why=item.why,
        )
        for item in search.found.attempts
    )
    noise = tuple(
        LayerNoise(node=node, operator=group.operator, snr_db=group.snr_db)
        for group in search.ranking.groups
        for node in group.nodes[:1]
    )
    return SearchFound(search.found.sentence, steps, noise, search.found.keep)


def _near(place: Path) -> Path:
    """A path as short as it can be typed from here."""
    here = Path.cwd()
    return place.resolve().relative_to(here) if place.resolve().is_relative_to(here) else place


REPORT = Step("report", write_reports)
