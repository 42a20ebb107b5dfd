"""``decide``: the verdict from the trials, then result.json, the report, the JUnit file and the bundle."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeship.files import storage_errors
from edgeship.pipeline.stages import Run, Stage, execute_one, source_digest, versions
from edgeship.pipeline.trials import REFERENCE, Tries, needs_calibration
from edgeship.results import (
    Calibrated,
    Decision,
    Exported,
    Judged,
    LatencyMs,
    Parity,
    Preflight,
    RunResult,
    Slimmed,
    Trial,
    TrialSummary,
    VerdictWord,
    common_clock,
    write,
)
from edgeship.version import __version__

WORST_FIRST: tuple[VerdictWord, ...] = ("NO-SHIP", "INCONCLUSIVE", "SHIP")
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "onnxslim", "nvidia-modelopt", "tensorrt",
            "tensorrt-rtx", "numpy", "pillow")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The end of a run: what was written, and the lines for the terminal."""

    result: RunResult
    summary: tuple[Any, ...]


def forget(folder: Path) -> None:
    """Remove an earlier run's verdict: a run that fails must not leave it for this one's."""
    with storage_errors(folder):
        for name in ("result.json", "report.html", "summary.md", "junit.xml"):
            (folder / name).unlink(missing_ok=True)


def finish(run: Run, reference: Tries, tries: list[Tries]) -> Outcome:
    """Judge every target, write what people and machines read, and pack what ships.

    The bundles hold the result and the report. result.json gets its name when the bundles that it tells of are there.
    """
    decisions = tuple(execute_one(run, decide_stage(target, reference)) for target in tries)
    bundle = {
        target.name: run.folder / _bundle_name(target, tries)
        for target, decision in zip(tries, decisions, strict=True)
        if decision.verdict == "SHIP" and decision.chosen is not None
    }
    result = _result(run, reference, tries, decisions, bundle)
    draft = run.folder / "stages" / "result.json"
    write(result, draft)
    summary = _tell(run, reference, tries, decisions, bundle)
    for target, decision in zip(tries, decisions, strict=True):
        _bundle(run, reference, target, decision, run.folder / _bundle_name(target, tries))
    remove_bundles(run.folder, set(bundle.values()))
    with storage_errors(draft):
        draft.replace(run.folder / "result.json")
    return Outcome(result, summary)


def _bundle_name(target: Tries, tries: list[Tries]) -> str:
    return "bundle" if len(tries) == 1 else f"bundle-{target.name}"


def decide_stage(tries: Tries, reference: Tries) -> Stage[Decision]:
    """The gate over one target's trials: pure, and again only when a rule or a trial changed."""

    def key(run: Run) -> Any:
        return {
            "gate": run.config.gate.model_dump(mode="json"),
            "trials": [folder.name for folder in (*reference.folders(), *tries.folders())],
            "failed": [trial.failure.message for _, trial, _ in tries.trials if trial.failure is not None],
        }

    def work(run: Run, folder: Path) -> Decision:
        from edgeship.decide import gate, loaded_trial

        base = loaded_trial.load(reference.folders()[0])
        loaded = [loaded_trial.load(place) for place in tries.folders()]
        return gate.judge(run.config.gate, loaded, base)

    return Stage(f"decide:{tries.name}", Decision, key, work)


def _bundle(run: Run, reference: Tries, target: Tries, decision: Decision, place: Path) -> None:
    """The bundle of a target that ships."""
    from edgeship.bundle.manifest import CalibrationProvenance
    from edgeship.bundle.write import Contents
    from edgeship.bundle.write import write as write_bundle

    if decision.verdict != "SHIP" or decision.chosen is None:
        return
    candidate, _, folder = next(item for item in target.trials if item[0].name == decision.chosen)
    calibrated = run.result("calibrate", Calibrated) if needs_calibration(candidate) else None
    contents = Contents(
        trial=folder,
        decision=decision,
        name=_title(run),
        reference=reference.folders()[0],
        gate=run.config.gate,
        calibration=CalibrationProvenance.of(calibrated) if calibrated is not None else None,
        cache=run.path("calibrate", calibrated.cache.path) if calibrated is not None else None,
        prepared={**versions(*PACKAGES), "exporter": run.result("export", Exported).exporter},
        evidence={
            "report.html": run.folder / "report.html",
            "result.json": run.folder / "stages" / "result.json",
            "summary.md": run.folder / "summary.md",
        },
        licences=_licences(run),
    )
    write_bundle(contents, place)


def remove_bundles(folder: Path, written: set[Path]) -> None:
    """Remove bundles of an earlier verdict, such as that of a target which the config names no more."""
    for manifest in (folder / "bundle" / "manifest.json", *folder.glob("bundle-*/manifest.json")):
        if manifest.is_file() and manifest.parent not in written:
            with storage_errors(manifest.parent):
                shutil.rmtree(manifest.parent)


def _licences(run: Run) -> dict[str, Path]:
    """Licence texts that stand beside the config."""
    return {path.name: path for path in sorted(run.config.root.glob("LICEN[CS]E*")) if path.is_file()}


def _title(run: Run) -> str:
    source = run.config.model.source
    stem = Path(source).stem if Path(source).suffix in (".onnx", ".pt2") else run.config.root.name
    return stem or "model"


def _result(
    run: Run, reference: Tries, tries: list[Tries], decisions: tuple[Decision, ...], bundle: dict[str, Path]
) -> RunResult:
    verdict = min((decision.verdict for decision in decisions), key=WORST_FIRST.index)
    summaries = [
        summarize(run, target, candidate.name, trial, folder, _judged(decision, candidate.name))
        for target, decision in zip(tries, decisions, strict=True)
        for candidate, trial, folder in target.trials
    ]
    _, base, base_folder = reference.trials[0]
    own = Judged(candidate=base.candidate.name, target_name=REFERENCE, outcome="pass", rules=())
    first = next(iter(bundle.values()), None)
    return RunResult(
        edgeship=__version__,
        verdict=verdict,
        chosen=decisions[0].chosen,
        sentence=" ".join(decision.sentence for decision in decisions),
        reference=summarize(run, reference, base.candidate.name, base, base_folder, own),
        trials=tuple(summaries),
        decisions=decisions,
        stages=tuple(run.stages),
        search={target.name: target.search.found.model_dump() for target in tries if target.search is not None},
        environment=environment(),
        config=_below(run.config.model_dump(mode="json"), f"{run.config.root}/"),
        bundle=first.name if first is not None else None,
    )


def _below(value: Any, root: str) -> Any:
    """The same with paths below ``root`` written relative to it: equal runs in two places give equal results."""
    if isinstance(value, dict):
        return {key: _below(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_below(item, root) for item in value]
    return value.removeprefix(root) if isinstance(value, str) else value


def _judged(decision: Decision, candidate: str) -> Judged:
    return next(item for item in decision.judged if item.candidate == candidate)


def summarize(run: Run, tries: Tries, name: str, trial: Trial, folder: Path, judged: Judged) -> TrialSummary:
    """One trial in result.json's short form."""
    clock = common_clock([item.latency for _, item, _ in tries.trials], run.config.gate.clock)
    timed = trial.latency.timed(clock) if trial.latency is not None else None
    latency = None
    if trial.latency is not None and timed is not None:
        read = timed.quantiles
        latency = LatencyMs(p50=read.p50, p90=read.p90, p99=read.p99, clock=timed.clock, batch=trial.latency.batch)
    return TrialSummary(
        candidate=name,
        precision=trial.candidate.precision,
        keep=trial.candidate.keep,
        target_name=tries.name,
        engine=trial.engine,
        device=trial.device,
        folder=folder.relative_to(run.folder).as_posix(),
        latency_ms=latency,
        metrics=trial.evaluation.metrics if trial.evaluation is not None else {},
        drop=judged.drop,
        audit=trial.audit,
        engine_mib=trial.build.engine.size_bytes / 2**20 if trial.build is not None else None,
        passed=judged.outcome == "pass",
        outcome=judged.outcome,
        reasons=judged.reasons,
    )


def environment() -> dict[str, Any]:
    """Versions and hardware of this machine, read without importing heavy packages."""
    return {
        "edgeship": source_digest(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "packages": versions(*PACKAGES),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _tell(
    run: Run, reference: Tries, tries: list[Tries], decisions: tuple[Decision, ...], bundle: dict[str, Path]
) -> tuple[Any, ...]:
    """Write the report, the Markdown summary and the JUnit file; return the lines for the terminal."""
    from edgeship.decide import junit
    from edgeship.decide.report import Evidence, Tried, terminal_summary, write_report, write_summary
    from edgeship.pipeline.changes import changed_images

    _, base, base_folder = reference.trials[0]
    calibrated = run.results.get("calibrate")
    source = run.config.file
    evidence = Evidence(
        title=_title(run),
        decisions=decisions,
        trials=tuple(Tried(trial, folder) for target in tries for _, trial, folder in target.trials),
        reference=Tried(base, base_folder),
        config=source.read_text(encoding="utf-8") if source.is_file() else "",
        confidence=run.config.gate.confidence,
        clock=run.config.gate.clock,
        critical=tuple(run.config.gate.critical),
        exported=run.result("export", Exported),
        slimmed=run.result("slim", Slimmed),
        preflight=run.result("preflight", Preflight),
        parity=run.result("parity", Parity),
        calibrated=calibrated if isinstance(calibrated, Calibrated) else None,
        calibrated_folder=run.folders.get("calibrate"),
        quantized={target.name: target.quantized for target in tries},
        stages=tuple(run.stages),
        environment=environment(),
        reproduce=(f"edgeship ship {source.name}",),
        finished=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        searches={
            target.name: target.search.for_report(next(iter(run.config.gate.max_drop), None))
            for target in tries
            if target.search is not None
        },
        changed={
            target.name: changed_images(run, reference, target, decision)
            for target, decision in zip(tries, decisions, strict=True)
        },
    )
    write_report(evidence, run.folder / "report.html")
    write_summary(evidence, run.folder / "summary.md")
    junit.write(decisions, run.folder / "junit.xml")
    places = {"report": run.folder / "report.html", "result": run.folder / "result.json"}
    places |= {f"bundle {name}" if len(bundle) > 1 else "bundle": place for name, place in bundle.items()}
    return tuple(terminal_summary(evidence, {label: _near(place) for label, place in places.items()}))


def _near(place: Path) -> Path:
    """A path as short as it can be typed from here."""
    here = Path.cwd()
    return place.resolve().relative_to(here) if place.resolve().is_relative_to(here) else place
