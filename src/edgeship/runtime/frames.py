"""What the vehicle has of one instant → an array for every input of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeship.data import beside
from edgeship.data.feeds import batch_of
from edgeship.data.loader import feeds_of
from edgeship.data.preprocess import Geometry, apply, in_dtype, input_size, open_picture
from edgeship.data.streams import scratch, unpacked
from edgeship.errors import DataError
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from PIL import Image

    from edgeship.config import FrameStreams, Preprocess
    from edgeship.engines import Array
    from edgeship.progress import Progress
    from edgeship.results import TensorInfo

    Picture: TypeAlias = Array | Image.Image | Path | str | bytes


class Preparer:
    """From pictures and values to feeds. Safe from several threads.

    Args:
        inputs: The engine's inputs.
        steps: The bundle's preprocessing.
        batch_range: The least and the largest batch of the engine.
    """

    def __init__(self, inputs: Sequence[TensorInfo], steps: Preprocess, batch_range: tuple[int, int]) -> None:
        self.image = beside.require_declared(inputs, steps)
        self._inputs = {info.name: info for info in inputs}
        self._size = input_size(self.image, steps)
        self._declared = steps
        self._steps = in_dtype(steps, self.image)
        self._least = batch_range[0]

    def __call__(
        self, images: Sequence[Picture], others: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Array], list[Geometry]]:
        """An array for each input, padded to the engine's least batch, and where each image lies in it.

        Raises:
            DataError: A picture cannot be decoded, or the value of an input is missing or does not fit.
        """
        made = [apply(as_picture(image, self._steps), self._steps, self._size) for image in images]
        rows = [array for array, _ in made]
        batch = rows[0][None] if len(rows) == 1 else np.stack(rows)
        geometries = [geometry for _, geometry in made]
        given = others or [{}] * len(rows)
        values = [self._beside(each, geometry) for each, geometry in zip(given, geometries, strict=True)]
        memory = {item.origin for item in self._declared.state.values()}
        inputs = tuple(info for name, info in self._inputs.items() if name not in memory)
        feeds = feeds_of(inputs, self.image.name, batch, values)
        return batch_of(feeds, inputs, max(self._least, len(rows))), geometries

    def _beside(self, given: Mapping[str, Any], geometry: Geometry) -> dict[str, Array]:
        """The values of one frame's other inputs: those that are given, and those that are known."""
        declared = self._declared.inputs
        if not declared and not given:
            return {}
        for name in given:
            if name not in declared:
                known = (self.image.name, *declared)
                raise DataError(f"the model has no input {did_you_mean(name, known)}", expected=", ".join(known))
        values = beside.known_values(tuple(self._inputs.values()), self._declared, given)("", geometry)
        for name, item in declared.items():
            if name in given:
                values[name] = self._value(name, given[name])
            elif name not in values:
                what = "a picture" if item.origin == "images" else f"an array {list(self._inputs[name].shape)}"
                raise DataError(
                    f"nothing was given for the input {name!r}",
                    expected=f"{what} for each frame",
                    do=f"model(image, {name}=…)",
                )
        return values

    def _value(self, name: str, value: Any) -> Array:
        info, declared = self._inputs[name], self._declared.inputs[name]
        if declared.origin != "images":
            return beside.given_value(info, value)
        steps, size = beside.camera_steps(info, declared, self._declared)
        return apply(as_picture(value, steps), steps, size)[0]


def frame_files(
    given: Sequence[Path], take: FrameStreams, steps: Preprocess | None, progress: Progress
) -> list[tuple[Path, Path]]:
    """Name and file of each frame of images, videos, bags and raw dumps, in order. Raises as :func:`unpacked` does."""
    found: list[tuple[Path, Path]] = []
    for place in given:
        folder = unpacked(place, take, steps.raw if steps is not None else None, scratch(), progress)
        if folder == place:
            found.append((place, place))
        else:
            inside = sorted(path for path in folder.rglob("*") if path.is_file())
            found += [(place.parent / path.relative_to(folder), path) for path in inside]
    return found


def as_picture(image: Picture, steps: Preprocess) -> Array | Image.Image:
    """What :func:`edgeship.data.preprocess.apply` takes: a file or its bytes are decoded, a raw dump is converted."""
    if isinstance(image, (str, Path)):
        return open_picture(Path(image), steps)
    return open_picture(image, steps) if isinstance(image, bytes) else image
