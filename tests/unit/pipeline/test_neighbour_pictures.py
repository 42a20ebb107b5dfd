"""What embeddings show in the report: whose nearest image changed, harm first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgeship.config import Evaluation
from edgeship.pipeline.changes import Pictures
from edgeship.pipeline.neighbour_pictures import changed_neighbours


def records(nearest: list[int], right: list[float]) -> dict[str, np.ndarray]:
    names = [f"{number}.png" for number in range(len(nearest))]
    return {"ids": np.array(names), "nearest": np.array(nearest), "value/recall1": np.array(right)}


def test_the_nearest_images_of_both_are_shown_harm_first(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for number in range(6):
        Image.new("RGB", (16, 12), (number * 40, 0, 0)).save(tmp_path / "val" / f"{number}.png")
    (tmp_path / "labels.csv").write_text("image,label\n" + "".join(f"{n}.png,{'aabbcc'[n]}\n" for n in range(6)))
    settings = Evaluation(task="embeddings", images=tmp_path / "val", labels=tmp_path / "labels.csv")
    base = records([1, 2, 3, 2, 0, 4], [1, 0, 1, 1, 0, 1])
    other = records([1, 0, 1, 2, 0, 3], [1, 1, 0, 1, 0, 0])
    kept = tmp_path / "kept"
    kept.mkdir()
    found = changed_neighbours(settings, (base, other), (2, 5), "int8", Pictures(kept).image)
    assert [(item.name, item.label, item.harm) for item in found] == [
        ("2.png", "b", "worse"),
        ("5.png", "c", "worse"),
        ("4.png", "c", "both wrong"),
    ]
    assert (found[0].reference.text, found[0].answer.text) == ("b, 3.png", "a, 1.png")
    answer = found[0].answer.picture
    assert answer is not None
    assert np.asarray(Image.open(kept / answer.path))[0, 0, 0] == 40
