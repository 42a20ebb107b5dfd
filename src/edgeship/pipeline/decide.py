"""``decide``: the verdict on each target, and result.json."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeship.bundle.of_run import BUNDLES
from edgeship.decide import gate, loaded_trial
from edgeship.decide.finished_run import EARLIER
from edgeship.decide.gate import Beside
from edgeship.decide.search import settled
from edgeship.decide.sequence import Spending
from edgeship.files import storage_errors
from edgeship.pipeline import looks
from edgeship.pipeline.diagnose import explained
from edgeship.pipeline.environment import environment
from edgeship.pipeline.first_look import LOOK
from edgeship.pipeline.graphs import graph_stage
from edgeship.pipeline.lineage import lineage
from edgeship.pipeline.release import release_folder, release_of
from edgeship.pipeline.stages import Run, Stage, Step, execute_one
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE, REFERENCE_NAME
from edgeship.pipeline.turns import turns_of
from edgeship.results import (
    Decision,
    Judged,
    LatencyMs,
    RunResult,
    Trial,
    TrialSummary,
    VerdictWord,
    common_clock,
    write,
)
from edgeship.results.seal import SEAL, read_seal, seal
from edgeship.unchanged import NOTE
from edgeship.version import __version__

RESULT_FILE = "result.json"
REPORTS = ("report.html", "summary.md", "junit.xml")
WORST_FIRST: tuple[VerdictWord, ...] = ("NO-SHIP", "INCONCLUSIVE", "SHIP")


def decide(run: Run, trials: TargetTrials) -> None:
    """Judge one target's trials."""
    reference = run.result(REFERENCE)
    decision = execute_one(run, decide_stage(reference, trials))
    looks.record(run, reference, trials, decision)


def decision_of(run: Run, trials: TargetTrials) -> Decision:
    """The verdict on a target."""
    return run.result(decide_stage(run.result(REFERENCE), trials))


def decide_stage(reference: TargetTrials, trials: TargetTrials) -> Stage[Decision]:
    """The gate over one target's trials: pure, and again only when a rule or a trial changed."""

    def key(run: Run) -> Any:
        turns, release = turns_of(run, trials), release_folder(run)
        return {
            "turns": None if turns is None else turns.model_dump(mode="json"),
            "gate": run.config.gate.model_dump(mode="json", exclude={"baseline"}),
            "release": read_seal(release).digest if release is not None else None,
            "trials": [read_seal(folder).digest for folder in (*reference.folders(), *trials.folders())],
            "searched": sorted(spending(run, reference, trials).searched),
            "earlier": looks.earlier(run, reference, trials),
        }

    def work(run: Run, folder: Path) -> Decision:
        base = loaded_trial.load(reference.folders()[0])
        loaded = [loaded_trial.load(place) for place in trials.folders()]
        beside = Beside(turns_of(run, trials), release_of(run))
        decision = gate.judge(run.config.gate, loaded, base, spending(run, reference, trials), beside)
        return explained(run, decision, base)

    return Stage(f"decide:{trials.name}", Decision, key, work)


def spending(run: Run, reference: TargetTrials, trials: TargetTrials) -> Spending:
    """Which candidates of a target a search made: they have a share of the error of their own."""
    before = looks.earlier(run, reference, trials)
    return Spending.of(trials.search, planned=run.config.candidates.search, earlier=before)


def bundle_places(run: Run) -> dict[str, Path]:
    """By target: where its bundle is written; those that do not ship have none."""
    shipped = [trials.name for trials in run.targets if decision_of(run, trials).verdict == "SHIP"]
    single = len(run.targets) == 1
    return {name: run.folder / ("bundle" if single else f"bundle-{name}") for name in shipped}


def draft(run: Run) -> Path:
    """Where result.json stands until everything that it tells of is there."""
    return run.folder / "stages" / RESULT_FILE


def write_result(run: Run) -> RunResult:
    """The run in short, written to its draft."""
    reference = run.result(REFERENCE)
    decisions = tuple(decision_of(run, trials) for trials in run.targets)
    verdict = min((decision.verdict for decision in decisions), key=WORST_FIRST.index)
    summaries = [
        summarize(run, target, candidate.name, trial, folder, _judged(decision, candidate.name))
        for target, decision in zip(run.targets, decisions, strict=True)
        for candidate, trial, folder in target.trials
    ]
    _, base, base_folder = reference.trials[0]
    own = Judged(candidate=base.candidate.name, target_name=REFERENCE_NAME, outcome="pass", rules=())
    result = RunResult(
        edgeship=__version__,
        verdict=verdict,
        chosen=decisions[0].chosen,
        sentence=" ".join(decision.sentence for decision in decisions),
        reference=summarize(run, reference, base.candidate.name, base, base_folder, own),
        trials=tuple(summaries),
        decisions=decisions,
        stages=tuple(run.stages),
        search={
            target.name: settled(target.search, decision)
            for target, decision in zip(run.targets, decisions, strict=True)
            if target.search is not None
        },
        environment=environment(),
        config=_below(run.config.model_dump(mode="json"), f"{run.config.root}/"),
        labels=run.result(LOOK).labels,
        warnings=run.result(LOOK).warnings,
        config_file=run.config.file.name,
        config_text=_config_text(run.config.file),
        title=run.config.title,
        lineage=lineage(run),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundles={name: place.name for name, place in bundle_places(run).items()},
    )
    write(result, draft(run))
    return result


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


def summarize(run: Run, trials: TargetTrials, name: str, trial: Trial, folder: Path, judged: Judged) -> TrialSummary:
    """One trial in result.json's short form."""
    clock = common_clock([item.latency for _, item, _ in trials.trials], run.config.gate.clock)
    timed = trial.latency.timed(clock) if trial.latency is not None else None
    latency = None
    if trial.latency is not None and timed is not None:
        read = timed.quantiles
        latency = LatencyMs(p50=read.p50, p90=read.p90, p99=read.p99, clock=timed.clock, batch=trial.latency.batch)
    return TrialSummary(
        candidate=name,
        precision=trial.candidate.precision,
        keep=trial.candidate.keep,
        target_name=trials.name,
        engine=trial.engine,
        device=trial.device,
        folder=folder.relative_to(run.folder).as_posix(),
        graph=graph_stage(trial.candidate, trials).name,
        latency_ms=latency,
        metrics=trial.evaluation.metrics if trial.evaluation is not None else {},
        drop=judged.drop,
        audit=trial.audit.model_copy(update={"order": ()}) if trial.audit is not None else None,
        engine_mib=trial.build.engine.size_bytes / 2**20 if trial.build is not None else None,
        passed=judged.outcome == "pass",
        outcome=judged.outcome,
        reasons=judged.reasons,
    )


def forget(folder: Path) -> None:
    """Remove an earlier run's verdict: a run that fails must not leave it for this one's."""
    with storage_errors(folder):
        for name in (NOTE, SEAL, RESULT_FILE, EARLIER, *REPORTS):
            (folder / name).unlink(missing_ok=True)


def publish(run: Run) -> None:
    """Give result.json its name, and seal it."""
    with storage_errors(draft(run)):
        draft(run).replace(run.folder / RESULT_FILE)
    files = [name for name in (RESULT_FILE, EARLIER, BUNDLES) if (run.folder / name).is_file()]
    seal(run.folder, "run", sum(stage.seconds for stage in run.stages), files)


RESULT = Step("result", write_result)
PUBLISH = Step("publish", publish)
