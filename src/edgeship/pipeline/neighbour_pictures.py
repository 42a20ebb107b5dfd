"""Embeddings as pictures: an image, and the one that each model finds nearest to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data import datasets
from edgeship.pipeline.depth_pictures import harm_of
from edgeship.results import Answer, Artifact, ChangedImage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeship.config import Evaluation
    from edgeship.data.loader import Item

    Array = NDArray[Any]
    Records = Mapping[str, Array]

Keep = Callable[["Path | Array"], tuple[Artifact | None, tuple[int, int]]]
"""Keeps a small copy of an image: :meth:`edgeship.pipeline.changes.Pictures.image`."""


def changed_neighbours(
    settings: Evaluation, sides: tuple[Records, Records], counts: tuple[int, int], candidate: str, keep: Keep
) -> list[ChangedImage]:
    """The images whose nearest one changed, harmful changes first, and those for which both find one of another class.

    Args:
        settings: Of the task.
        sides: Records of the reference and of the candidate.
        counts: At most how many that changed, and how many that both get wrong.
        candidate: Its name.
        keep: Keeps the pictures.
    """
    base, other = sides
    before, after = (side["value/recall1"] for side in sides)
    moved = np.flatnonzero(base["nearest"] != other["nearest"])
    shown = moved[np.argsort(np.nan_to_num(after - before)[moved], kind="stable")][: counts[0]]
    both = np.flatnonzero((base["nearest"] == other["nearest"]) & (before == 0) & (after == 0))[: counts[1]]
    dataset = datasets.open_dataset(settings.model_copy(update={"limit": None}))
    items = {item.id: item for item in dataset.items}
    ids = [str(name) for name in base["ids"]]

    def kind(item: Item) -> str:
        return str(dataset.classes[int(item.target)] if dataset.classes else item.target)

    def nearest(row: int, records: Records) -> Answer:
        item = items[ids[int(records["nearest"][row])]]
        return Answer(text=f"{kind(item)}, {item.id}", picture=keep(item.picture())[0])

    found = []
    for row in (*shown.tolist(), *both.tolist()):
        item = items[ids[row]]
        picture, size = keep(item.picture())
        found.append(
            ChangedImage(
                picture=picture,
                size=size,
                name=item.id,
                label=kind(item),
                candidate=candidate,
                reference=nearest(row, base),
                answer=nearest(row, other),
                change=float(base["nearest"][row] != other["nearest"][row]),
                harm=harm_of(float(np.nan_to_num(before[row])), float(np.nan_to_num(after[row])))
                if row in shown
                else "both wrong",
            )
        )
    return found
