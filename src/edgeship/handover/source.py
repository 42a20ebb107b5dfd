"""What every hand-over reads of a bundle, with the refusals that they share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeship.bundle.manifest import Manifest
from edgeship.config import Evaluation, Preprocess
from edgeship.data.preprocess import image_input, input_size
from edgeship.errors import DataError
from edgeship.results import TensorInfo


@dataclass(frozen=True)
class Source:
    """A verified bundle."""

    manifest: Manifest
    folder: Path

    @property
    def name(self) -> str:
        """The model's name as folders and identifiers take it."""
        return re.sub(r"\W+", "_", self.manifest.name).strip("_").lower() or "model"

    def content(self, path: str) -> bytes:
        """A file of the bundle, whose hash was checked."""
        return (self.folder / path).read_bytes()

    @property
    def steps(self) -> Preprocess:
        """The preprocessing. Raises DataError: the bundle has none."""
        steps = self.manifest.preprocess
        if steps is None:
            raise DataError(
                "the bundle holds no preprocessing, so nobody but you knows what its network takes",
                do="add [preprocess] to edgeship.toml and ship again; --for triton serves raw tensors without it",
            )
        return steps

    @property
    def image(self) -> TensorInfo:
        """The input that takes the image. Raises DataError where others stand beside it."""
        if len(self.manifest.inputs) != 1:
            names = ", ".join(info.name for info in self.manifest.inputs)
            raise DataError(
                f"the network takes {len(self.manifest.inputs)} inputs ({names}), and only an image can be handed over",
                do="hand over for triton without an ensemble, or make the other inputs constants of the graph",
            )
        return image_input(self.manifest.inputs, self.steps)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input: fixed, of the preprocessing, or of the profile. Raises DataError."""
        info = self.image
        if self.steps.size is None and info.name in self.manifest.profiles:
            best = self.manifest.profiles[info.name][1]
            info = info.model_copy(update={"shape": (info.shape[0], *best[1:])})
        return input_size(info, self.steps)

    @property
    def evaluation(self) -> Evaluation:
        """How outputs are decoded. Raises DataError: nobody said it."""
        if self.manifest.evaluation is None:
            raise DataError(
                "the bundle does not say how its outputs are decoded", do="add [evaluation] with a task and ship again"
            )
        return self.manifest.evaluation

    @property
    def output(self) -> TensorInfo:
        """The one output that is decoded. Raises DataError where there are several."""
        chosen = self.evaluation.output
        found = [info for info in self.manifest.outputs if chosen in (None, info.name)]
        if len(found) != 1:
            names = ", ".join(info.name for info in self.manifest.outputs)
            raise DataError(
                f"{len(found)} outputs could carry the prediction ({names}), and a parser takes one",
                do="name it in evaluation.output and ship again",
            )
        return found[0]

    @property
    def batch(self) -> int:
        """The batch that was timed and judged."""
        low, high = self.manifest.batch_range
        return min(max(self.manifest.latency_batch or self.manifest.target.batch.opt, low), high)
