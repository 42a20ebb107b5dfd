"""What a tracker is told of a finished run: plain values, for whatever form the tracker has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.results import Result, RunResult, VerdictWord

FILES = ("report.html", "summary.md", "result.json", "junit.xml")


class Told(Result):
    """A finished run."""

    model: str
    version: str
    verdict: VerdictWord
    sentence: str
    experiment: str
    """Where a tracker groups runs: ``track.experiment``, else the model's name."""
    registered: str
    """The registry's name of the model; empty: it is not registered."""
    alias: str
    """What the registry calls the version that ships."""
    parameters: dict[str, str]
    """Settings of the config by their place, ``gate.latency_p50_ms``."""
    metrics: dict[str, float]
    """``default/int8/top1``, ``default/int8/rule/max_drop.top1``, and ``…/bound`` and ``…/limit`` of each rule."""
    tags: dict[str, str]
    """Commit, engine, digests."""
    artifacts: tuple[Path, ...]
    """Report, summary, result, JUnit; absolute."""
    bundles: tuple[Path, ...]
    """Folders of what ships."""


def told_of(result: RunResult, folder: Path, experiment: str, registered: str, alias: str) -> Told:
    """What trackers are told of a run in ``folder``."""
    tags = {"edgeship": result.edgeship, "verdict": result.verdict, "commit": result.lineage.commit}
    tags |= {f"sha256 {name}": digest for name, digest in result.lineage.digests.items()}
    tags |= {f"{item.target_name} engine": item.engine for item in result.trials}
    tags |= {f"{item.target_name} ships": item.chosen or "nothing" for item in result.decisions}
    return Told(
        model=result.title,
        version=result.lineage.version,
        verdict=result.verdict,
        sentence=result.sentence,
        experiment=experiment or result.title,
        registered=registered,
        alias=alias,
        parameters=_flat(result.config),
        metrics=_metrics(result),
        tags={name: value for name, value in tags.items() if value},
        artifacts=tuple((folder / name).resolve() for name in FILES if (folder / name).is_file()),
        bundles=tuple((folder / name).resolve() for name in result.bundles.values() if (folder / name).is_dir()),
    )


def _flat(value: Any, place: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, item in value.items():
            found |= _flat(item, f"{place}.{key}" if place else str(key))
        return found
    return {} if value is None or value == [] else {place: str(value)}


def _metrics(result: RunResult) -> dict[str, float]:
    found: dict[str, float] = {}
    for trial in result.trials:
        place = f"{trial.target_name}/{trial.candidate}"
        values = dict(trial.metrics)
        if trial.latency_ms is not None:
            values |= {f"latency_{name}_ms": getattr(trial.latency_ms, name) for name in ("p50", "p90", "p99")}
        values |= {"engine_mib": trial.engine_mib} if trial.engine_mib is not None else {}
        for name, value in values.items():
            found.setdefault(f"{place}/{name}", value)
    for decision in result.decisions:
        for judged in decision.judged:
            for rule in judged.rules:
                place = f"{decision.target_name}/{judged.candidate}/rule/{rule.name}"
                parts = (("", rule.measured), ("/bound", rule.bound), ("/limit", rule.limit))
                found |= {f"{place}{part}": value for part, value in parts if value is not None}
    return found
