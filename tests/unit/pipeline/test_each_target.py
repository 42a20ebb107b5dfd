"""Targets of a run: other machines side by side, this one's one by one."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier

import pytest

from edgeship.config import Config, Model, Target
from edgeship.errors import TargetError
from edgeship.pipeline.each_target import each_target
from edgeship.pipeline.stages import Run, execute
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.targets import link


def run_on(folder: Path, **hosts: str | None) -> Run:
    targets = {name: Target(host=host) for name, host in hosts.items()}
    return Run(Config(model=Model(source="model:build"), targets=targets), folder)


def test_every_target_goes_through_the_steps_in_order(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    run = run_on(tmp_path, desk=None, bench=None)
    steps = [lambda run, trials, name=name: seen.append((trials.name, name)) for name in ("try", "decide")]
    execute(run, (each_target(*steps),))
    assert seen == [("desk", "try"), ("desk", "decide"), ("bench", "try"), ("bench", "decide")]
    assert [trials.name for trials in run.targets] == ["desk", "bench"]


def test_other_machines_work_at_the_same_time(tmp_path: Path) -> None:
    both = Barrier(2, timeout=20)

    def wait_for_the_other(run: Run, trials: TargetTrials) -> None:
        if trials.target.host is not None:
            both.wait()

    run = run_on(tmp_path, orin="user@orin", thor="user@thor", desk=None)
    execute(run, (each_target(wait_for_the_other),))
    assert [trials.name for trials in run.targets] == ["orin", "thor", "desk"]


def test_what_stops_one_target_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    def refuse(run: Run, trials: TargetTrials) -> None:
        raise TargetError(f"{trials.target.host} cannot be reached")

    with pytest.raises(TargetError, match="user@orin cannot be reached") as caught:
        execute(run_on(tmp_path, orin="user@orin", desk=None), (each_target(refuse),))
    assert (caught.value.stage, caught.value.targets) == ("targets", ("orin",))


def test_a_run_that_failed_stops_no_later_one(tmp_path: Path) -> None:
    def refuse(run: Run, trials: TargetTrials) -> None:
        if trials.name == "orin":
            raise TargetError("cannot be reached")
        with pytest.raises(KeyboardInterrupt):  # the other target's wait ends at once
            link.wait(60)

    with pytest.raises(TargetError):
        execute(run_on(tmp_path, orin="user@orin", thor="user@thor"), (each_target(refuse),))
    link.wait(0.01)  # the next run in this process waits as ever
