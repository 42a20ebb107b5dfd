"""A trial of a finished run once more, on a device over SSH."""

from __future__ import annotations

import shutil
from pathlib import Path

from chaos_support import remote_target
from edgeship import targets
from edgeship.decide.finished_run import FinishedRun
from edgeship.results import Evaluated, trial_folder
from sshd_support import Device


def evaluated_on_both(
    run: FinishedRun, host: Device, folder: Path, candidate: str = "fp32"
) -> tuple[Evaluated, Evaluated]:
    """What a candidate's trial found here, and what the same trial finds on ``host``."""
    local = run.folder / next(item.folder for item in run.result.trials if item.candidate == candidate)
    spec = trial_folder.read_spec(local)
    for name in (spec.model.path, spec.frames.path if spec.frames else ""):
        shutil.copyfile(local / name, folder / name)
    there = remote_target(host).model_copy(update={"batch": spec.target.batch, "shapes": spec.target.shapes})
    trial_folder.write_spec(spec.model_copy(update={"target": there}), folder)
    trial, ours = targets.run(there, folder), trial_folder.read_trial(local)
    assert trial.failure is None, trial.failure
    assert trial.evaluation is not None
    assert ours.evaluation is not None
    return ours.evaluation, trial.evaluation
