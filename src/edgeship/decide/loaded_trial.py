"""A trial with its arrays, as the gate reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeship.data.npz import open_npz
from edgeship.errors import ArtifactError
from edgeship.results import Artifact, Trial, trial_folder

Arrays = Mapping[str, NDArray[Any]]
DIGESTS = "output_digests"
"""Records' array of a hash of each image's raw outputs; absent where an output is of whole numbers."""


@dataclass(frozen=True)
class Measured:
    """A trial, its per-image records and its latency samples.

    ``records`` holds what the task's metrics module wrote; ``latency`` holds ``wall_ms`` and, where measured,
    ``device_ms`` (float64, one per call, in order); ``outputs`` holds the answers to the known frames. Each is empty
    where it was not measured.
    """

    trial: Trial
    records: Arrays = field(default_factory=dict)
    latency: Arrays = field(default_factory=dict)
    outputs: Arrays = field(default_factory=dict)
    frames: Arrays = field(default_factory=dict)
    """Samples of whole frames, where the gate asked for them."""
    folder: Path | None = None

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.trial.candidate.name

    def is_same_as(self, other: Measured) -> bool:
        """Whether this trial ran what the other ran, so that nothing between them is left to chance.

        Every array of the per-image records is equal, and either the engine is the same file on the same device or the
        records hold ``output_digests``, a hash of the float outputs for every image. Equal answers alone prove nothing:
        two networks may well agree on a few images, and outputs of whole numbers on many.
        """
        if not self.records or not _equal(_answers(self.records), _answers(other.records)):
            return False
        mine, theirs = self.trial, other.trial
        if mine.build is not None and theirs.build is not None:
            ours, others = mine.build.identity, theirs.build.identity
            same_place = (ours.engine, ours.version, ours.device) == (others.engine, others.version, others.device)
            if same_place and mine.build.engine.sha256 == theirs.build.engine.sha256:
                return True
        digests, others_digests = (item.records.get(DIGESTS, np.empty(0)) for item in (self, other))
        return len(digests) == len(self.records["ids"]) and np.array_equal(digests, others_digests)


def load(folder: Path) -> Measured:
    """Read a trial directory: ``trial.json`` and the arrays it names, each checked against its hash.

    Raises:
        ArtifactError: A file is absent, malformed, changed, or of another schema version.
        DataError: A file of arrays is whole and holds none.
    """
    trial = trial_folder.read_trial(folder)
    evaluation, latency = trial.evaluation, trial.latency
    return Measured(
        trial,
        records=_arrays(folder, evaluation.records if evaluation else None),
        latency=_arrays(folder, latency.samples if latency else None),
        outputs=_arrays(folder, trial.outputs),
        frames=_arrays(folder, trial.frame.samples if trial.frame else None),
        folder=folder,
    )


def _answers(records: Arrays) -> Arrays:
    """The records without the hashes of the outputs they come from."""
    return {name: array for name, array in records.items() if name != DIGESTS}


def _equal(one: Arrays, other: Arrays) -> bool:
    """Whether two sets of arrays hold the same values element by element; NaN equals nothing."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _arrays(folder: Path, artifact: Artifact | None) -> dict[str, NDArray[Any]]:
    if artifact is None:
        return {}
    path = trial_folder.verified(folder, artifact)
    return _Stored(path, {name: np.array(array) for name, array in open_npz(path).items()})


class _Stored(dict[str, NDArray[Any]]):
    """Arrays of a file. One that is missing is the file's fault, and said as that."""

    def __init__(self, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        super().__init__(arrays)
        self._path = path

    def __missing__(self, name: str) -> NDArray[Any]:
        raise ArtifactError(
            f"{self._path} has no array {name!r}",
            expected=f"{name!r} beside {', '.join(sorted(self)) or 'others'}",
            do="run the trial again",
        )
