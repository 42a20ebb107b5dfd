"""The release in the field: the stage that takes the trial of its engine from its bundle or the history."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgeship.bundle.write import EVIDENCE_OF_TRIAL
from edgeship.decide import loaded_trial
from edgeship.decide.loaded_trial import Measured
from edgeship.decide.released import STAGE, Release, require_pairable, require_there
from edgeship.files import sha256_bytes, storage_errors
from edgeship.pipeline.stages import Run, Stage
from edgeship.pipeline.trials import REFERENCE
from edgeship.results import Trial, trial_folder
from edgeship.results.seal import read_seal


def release_key(run: Run) -> Any:
    """The bundle, and the reference and metrics that it is checked against."""
    release = Release.of(run.config)
    assert release is not None
    if release.bundle is not None:
        require_there(release.bundle)
        named: Any = run.hasher.tree(release.bundle)
    else:
        named = {name: sha256_bytes(data) for name, data in release.kept().items()}
    return {
        "bundle": named,
        "reference": [read_seal(folder).digest for folder in run.result(REFERENCE).folders()],
        "metrics": sorted(run.config.gate.max_drop),
    }


def take_release(run: Run, folder: Path) -> Trial:
    """Copy the trial of the released engine out of its bundle or the history, once it is known to fit the reference.

    Raises:
        BundleError: The bundle is not whole, or holds no evaluation.
        DataError: It was evaluated on other images, with other labels or without a metric that is limited.
    """
    release = Release.of(run.config)
    assert release is not None
    with release.opened() as found:
        require_pairable(run.config.gate, loaded_trial.load(run.result(REFERENCE).folders()[0]), found)
        assert found.folder is not None
        with storage_errors(folder):
            for name in EVIDENCE_OF_TRIAL:
                if (found.folder / name).is_file():
                    shutil.copyfile(found.folder / name, folder / name)
    return found.trial


def release_of(run: Run) -> Measured | None:
    """The release in the field, as the gate reads it; None where the config names none."""
    place = release_folder(run)
    return loaded_trial.load(place) if place is not None else None


def release_folder(run: Run) -> Path | None:
    """The folder of the release's trial; None where the config names none."""
    return run.folders[RELEASE.name] if RELEASE.needed(run) else None


RELEASE = Stage(
    STAGE,
    Trial,
    release_key,
    take_release,
    needed=lambda run: run.config.gate.baseline is not None,
    file=trial_folder.TRIAL,
)
