"""Labels of a task of one's own: passed as they are."""

from __future__ import annotations

import pytest
from PIL import Image

from edgeship.config import Evaluation
from edgeship.data.datasets import open_dataset
from edgeship.data.preprocess import Geometry
from edgeship.errors import DataError

GEOMETRY = Geometry(8, 8, 8, 8)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def opened(images, labels, **settings):
    return open_dataset(Evaluation(task="mine:score", images=images, labels=labels, **settings))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.csv", 'image;text\na.png;"007"\n', "007"),
        ("l.csv", "image,x,y\na,1,2\n", {"image": "a", "x": "1", "y": "2"}),
        ("l.json", '{"a.png": [1, {"b": 2}]}', [1, {"b": 2}]),
        ("l.json", '[{"file_name": "a.png", "depth": 3}]', {"file_name": "a.png", "depth": 3}),
        ("l.jsonl", '\ufeff{"image": "a.png", "depth": 3}\n', {"image": "a.png", "depth": 3}),
    ],
)
def test_what_the_labels_say_of_an_image(images, tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    found = opened(images, tmp_path / name)
    assert [(item.id, item.target(GEOMETRY)) for item in found.items] == [("a.png", expected)]
    assert found.said == f"labels of {name}: 1 labelled images; 1 unlabelled images are left out"


def test_a_folder_gives_the_files(images, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.npy").write_bytes(b"")
    assert opened(images, tmp_path / "deep").items[0].target(GEOMETRY) == tmp_path / "deep" / "b.npy"


def test_without_labels_and_with_wrong_ones(images, tmp_path):
    assert [item.target for item in opened(images, None).items] == [None, None]
    with pytest.raises(DataError, match="do not exist"):
        opened(images, tmp_path / "absent.csv")
    (tmp_path / "l.csv").write_text("image,text\nz.png,x\n")
    with pytest.raises(DataError, match=r"labels 1 images that are not in .*: z\.png"):
        opened(images, tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("image,text\na.png,x\na.png,y\n")
    with pytest.raises(DataError, match=r"line 3: a\.png stands twice"):
        opened(images, tmp_path / "l.csv")
