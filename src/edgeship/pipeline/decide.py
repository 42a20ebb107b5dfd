"""``decide``: the verdict from the trials, then result.json, the report, the JUnit file and the bundle."""

from __future__ import annotations

import platform
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeship.decide import junit
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import write_report, write_summary
from edgeship.files import storage_errors
from edgeship.pipeline.changes import changes_stage
from edgeship.pipeline.stages import Run, Stage, execute_one, source_digest, versions
from edgeship.pipeline.trials import REFERENCE, Tries, graph_name, needs_calibration
from edgeship.results import (
    Calibrated,
    Decision,
    Exported,
    Judged,
    LatencyMs,
    RunResult,
    Trial,
    TrialSummary,
    VerdictWord,
    write,
)
from edgeship.version import __version__

WORST_FIRST: tuple[VerdictWord, ...] = ("NO-SHIP", "INCONCLUSIVE", "SHIP")
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "onnxslim", "nvidia-modelopt", "tensorrt",
            "tensorrt-rtx", "numpy", "pillow")  # fmt: skip


def forget(folder: Path) -> None:
    """Remove an earlier run's verdict: a run that fails must not leave it for this one's."""
    with storage_errors(folder):
        for name in ("result.json", "report.html", "summary.md", "junit.xml"):
            (folder / name).unlink(missing_ok=True)


def finish(run: Run, reference: Tries, tries: list[Tries]) -> FinishedRun:
    """Judge every target, write what people and machines read, and pack what ships.

    The bundles hold the result and the report. result.json gets its name when the bundles that it tells of are there.
    """
    decisions = tuple(execute_one(run, decide_stage(target, reference)) for target in tries)
    for target, decision in zip(tries, decisions, strict=True):
        stage = changes_stage(reference, target, decision)
        if stage is not None:
            execute_one(run, stage)
    bundle = {
        target.name: run.folder / _bundle_name(target, tries)
        for target, decision in zip(tries, decisions, strict=True)
        if decision.verdict == "SHIP" and decision.chosen is not None
    }
    result = _result(run, reference, tries, decisions, bundle)
    draft = run.folder / "stages" / "result.json"
    write(result, draft)
    finished = FinishedRun(result, run.folder)
    _tell(finished)
    for target, decision in zip(tries, decisions, strict=True):
        _bundle(run, reference, target, decision, run.folder / _bundle_name(target, tries))
    remove_bundles(run.folder, set(bundle.values()))
    with storage_errors(draft):
        draft.replace(run.folder / "result.json")
    return finished


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
    return RunResult(
        edgeship=__version__,
        verdict=verdict,
        chosen=decisions[0].chosen,
        sentence=" ".join(decision.sentence for decision in decisions),
        reference=summarize(run, reference, base.candidate.name, base, base_folder, own),
        trials=tuple(summaries),
        decisions=decisions,
        stages=tuple(run.stages),
        search={target.name: target.search for target in tries if target.search is not None},
        environment=environment(),
        config=_below(run.config.model_dump(mode="json"), f"{run.config.root}/"),
        config_file=run.config.file.name,
        config_text=_config_text(run.config.file),
        title=_title(run),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundles={name: place.name for name, place in bundle.items()},
    )


def _config_text(file: Path) -> str:
    """The user's file; empty for a config that was made in Python."""
    if not file.is_file():
        return ""
    with storage_errors(file):
        return file.read_text(encoding="utf-8")


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
    clock = run.config.gate.clock
    latency = None
    if trial.latency is not None:
        device = trial.latency.device_ms if clock != "wall" else None
        read = device or trial.latency.wall_ms
        latency = LatencyMs(
            p50=read.p50,
            p90=read.p90,
            p99=read.p99,
            clock="device" if device is not None else "wall",
            batch=trial.latency.batch,
        )
    return TrialSummary(
        candidate=name,
        precision=trial.candidate.precision,
        keep=trial.candidate.keep,
        target_name=tries.name,
        engine=trial.engine,
        device=trial.device,
        folder=folder.relative_to(run.folder).as_posix(),
        graph=graph_name(trial.candidate, tries),
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


def _tell(run: FinishedRun) -> None:
    """Write the report, the Markdown summary and the JUnit file."""
    write_report(run, run.folder / "report.html")
    write_summary(run, run.folder / "summary.md")
    junit.write(run.result.decisions, run.folder / "junit.xml")
