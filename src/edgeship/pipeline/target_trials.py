"""The trials of one target, as the steps fill them in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgeship.config import Target
from edgeship.pipeline.candidates import style_of
from edgeship.prepare.quantized_tensors import Style
from edgeship.results import Candidate, Searched, Trial
from edgeship.targets.helpers import Helpers


@dataclass
class TargetTrials:
    """The trials of one target.

    Args:
        name: The target's name in the config.
        target: Where the candidates are tried.
        trials: Candidate, trial and the trial's folder, in the order they ran.
        search: What the search found; None where none was made.
        preview: The graphs are TensorRT's and run in onnxruntime on this machine: for their answers only, never timed
            or built twice.
        helpers: Workers that try previews ahead of need; None: this machine tries each in its turn.
    """

    name: str
    target: Target
    trials: list[tuple[Candidate, Trial, Path]] = field(default_factory=list)
    search: Searched | None = None
    preview: bool = False
    helpers: Helpers | None = None

    @property
    def style(self) -> Style:
        """Which placement of Q/DQ pairs the graphs have."""
        return "tensorrt" if self.preview else style_of(self.target)

    def folders(self) -> list[Path]:
        """The trials' folders, in the order they ran."""
        return [folder for _, _, folder in self.trials]
