"""The stage that times the candidates that pass turn by turn, before the fastest is named."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from edgeship.decide import gate, loaded_trial
from edgeship.decide.gate import Beside
from edgeship.decide.loaded_trial import Measured
from edgeship.pipeline.release import release_of
from edgeship.pipeline.stages import Run, Stage, execute_one
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE
from edgeship.results import Turns
from edgeship.targets import local

MOST = 4
"""Candidates that take turns beside fp32: the fastest of those that pass, by their trials."""


def take_turns(run: Run, trials: TargetTrials) -> None:
    """Time candidates whose rules pass in turns, on a target of this machine, where there are several.

    fp32 takes part, though it may not pass: the speed-up of all others is over it. Over SSH the medians of the trials
    decide.
    """
    if trials.target.host is not None or trials.preview:
        return
    folders = contenders(run, trials)
    if len(folders) > 1:
        execute_one(run, turns_stage(trials, folders))


def turns_of(run: Run, trials: TargetTrials) -> Turns | None:
    """The turns of a target's candidates; None where none were taken."""
    found: Turns | None = run.results.get(_name(trials))
    return found


def contenders(run: Run, trials: TargetTrials) -> list[Path]:
    """The trial folders of the fastest candidates that pass, and of fp32; each once."""
    builds = [loaded_trial.load(folder) for folder in trials.folders()]
    timed = [item for item in builds if item.trial.latency is not None and item.trial.failure is None]
    if len({item.name for item in timed}) < 2:
        return []
    rules = run.config.gate
    without = rules.model_copy(update={"speedup_over_fp32": None})
    base = loaded_trial.load(run.result(REFERENCE).folders()[0])
    judged = gate.judge(without, builds, base, beside=Beside(release=release_of(run))).judged
    passing = [item.candidate for item in judged if item.outcome == "pass"]
    return [item.folder for item in taking_part(timed, passing) if item.folder is not None]


def taking_part(timed: Sequence[Measured], passing: Collection[str]) -> list[Measured]:
    """The fastest of the candidates that pass, each by its slowest build, and fp32, which all are compared with.

    Args:
        timed: Every trial that was timed.
        passing: Names of the candidates whose rules pass; none: nobody takes part.
    """
    slowest = {item.name: item for item in sorted(timed, key=_median)}
    chosen = sorted((item for name, item in slowest.items() if name in passing), key=_median)[:MOST]
    names = {item.name for item in chosen}
    fp32 = [item for item in slowest.values() if item.trial.candidate.precision == "fp32" and item.name not in names]
    return chosen + fp32[:1] if chosen else []


def _median(item: Measured) -> float:
    return item.trial.latency.wall_ms.p50 if item.trial.latency is not None else float("inf")


def turns_stage(trials: TargetTrials, folders: list[Path]) -> Stage[Turns]:
    """The engines of ``folders`` in turns, in a process of their own; again only when a trial or a setting changed."""

    def key(run: Run) -> Any:
        return {
            "trials": [folder.name for folder in folders],
            "benchmark": run.config.benchmark.model_dump(mode="json", exclude={"baseline"}),
        }

    return Stage(_name(trials), Turns, key, lambda run, folder: local.take_turns(folders, folder / "turns.json"))


def _name(trials: TargetTrials) -> str:
    return f"turns:{trials.name}"
