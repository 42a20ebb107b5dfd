"""What every hand-over reads of a bundle, with the refusals that they share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeship.bundle.manifest import GET_AGAIN, Manifest
from edgeship.config import Evaluation, Preprocess
from edgeship.data.npz import open_npz, read_headers
from edgeship.data.preprocess import image_input, input_size
from edgeship.errors import BundleError, DataError
from edgeship.results import TensorInfo
from edgeship.runtime.model import misfit

PLAIN = frozenset(chr(code) for code in range(32, 127)) - frozenset('"\\?@')


def quoted(text: str) -> str:
    """``text`` as a string literal of C++ and of protobuf's text format: other bytes than plain ones in octal.

    Neither ends the literal, a line or a comment, nor is a placeholder of ours or a trigraph.
    """
    return '"' + "".join(chr(byte) if chr(byte) in PLAIN else f"\\{byte:03o}" for byte in text.encode()) + '"'


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

    def labels(self, separator: str = "\n") -> bytes:
        """The class names as a file of labels. Raises DataError for a name that would shift those after it."""
        for number, label in enumerate(self.manifest.classes):
            if not label.isprintable() or separator in label:
                raise DataError(
                    f"class {number} is called {label!r}, and labels.txt has one name after another with {separator!r}",
                    expected=f"names of printable characters without {separator!r}",
                    do="rename the class in evaluation.classes and ship again",
                )
        return f"{separator.join(self.manifest.classes)}\n".encode()

    def known_frames(self) -> dict[str, NDArray[Any]]:
        """The bundle's known input by the names of the inputs, which it fits; empty where the bundle holds none.

        Raises:
            BundleError: Something else is recorded; nothing of it is read then, as a small file can unfold to much.
        """
        known = self.manifest.known_answer
        if known is None:
            return {}
        path, names = self.folder / known.path, [info.name for info in self.manifest.inputs]
        try:
            headers = read_headers(path)
            problem = misfit(self.manifest.inputs, {name: headers.get(f"in:{name}") for name in names}, self.manifest)
            arrays = {} if problem else open_npz(path, [f"in:{name}" for name in names])
        except DataError as error:
            problem = error.found
        if problem:
            raise BundleError(
                f"the known input {path.name} is damaged: {problem}",
                expected="in:NAME for each input, as the engine takes it",
                do=GET_AGAIN,
            )
        return {name: arrays[f"in:{name}"] for name in names}

    @property
    def batch(self) -> int:
        """The batch that was timed and judged."""
        low, high = self.manifest.batch_range
        return min(max(self.manifest.latency_batch or self.manifest.target.batch.opt, low), high)
