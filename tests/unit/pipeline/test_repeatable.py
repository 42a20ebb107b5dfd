"""A run is answered as unchanged only where all that it depends on is a file or a fact of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeship.config import Config
from edgeship.pipeline.candidates import FP32
from edgeship.pipeline.repeatable import repeatable
from edgeship.pipeline.stages import Run
from edgeship.pipeline.streams import FOLDER
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.results import Failure, Trial

OTHERWISE: dict[str, dict[str, Any]] = {
    "a GPU": {"target": {"device": "cuda:0"}},
    "another machine": {"target": {"host": "me@orin"}},
    "one of several targets on another": {"targets": {"desk": {}, "orin": {"host": "me@orin"}}},
    "the last release": {"gate": {"baseline": "last", "max_drop": {"top1": 0.1}}},
    "a release of the history": {"gate": {"baseline": "history:3", "max_drop": {"top1": 0.1}}},
    "a tracker": {"track": {"mlflow": "sqlite:///mlflow.db"}},
}


def ended(folder: Path, failure: str = "", **tables: Any) -> Run:
    """A run that has ended with one trial, which failed by ``failure``."""
    config = Config.model_validate({"model": {"source": "model:build"}, **tables})
    run = Run(config, folder)
    target = config.target
    failed = Failure(stage="build", kind=failure, message="") if failure else None
    trial = Trial(candidate=FP32, engine=target.engine, device=target.device, failure=failed)
    run.targets.append(TargetTrials("default", target, trials=[(FP32, trial, folder)]))
    return run


def test_a_run_on_this_processor_is_repeatable(tmp_path: Path) -> None:
    assert repeatable(ended(tmp_path))
    assert repeatable(ended(tmp_path, target={"engine": "openvino"}))
    assert repeatable(ended(tmp_path, gate={"baseline": tmp_path / "last.bundle", "max_drop": {"top1": 0.1}}))
    assert repeatable(ended(tmp_path, "PrecisionError")), "what this engine can never do is not tried again"


@pytest.mark.parametrize("tables", OTHERWISE.values(), ids=OTHERWISE)
def test_what_lies_outside_this_machines_files_is_asked_again(tmp_path: Path, tables: dict[str, Any]) -> None:
    assert not repeatable(ended(tmp_path, **tables))


def test_what_failed_was_noted_or_came_out_of_a_video_is_done_again(tmp_path: Path) -> None:
    assert not repeatable(ended(tmp_path, "Crash"))
    noted = ended(tmp_path)
    noted.notes.append("the run is not in the history: it is locked")
    assert not repeatable(noted)
    (tmp_path / FOLDER / "drive").mkdir(parents=True)
    assert not repeatable(ended(tmp_path))
