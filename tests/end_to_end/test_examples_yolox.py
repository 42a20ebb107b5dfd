"""examples/yolox_nano: COCO weights on composed scenes; INT8 visibly loses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from examples_support import Example, copy_example, install
from projects import Edgeship

from handover_support import handed_over

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp("yolox")
    example = copy_example("yolox_nano", folder / "example", install("yolox_nano", folder / "packages"))
    example.script("get_model.py")
    example.script("make_scenes.py", "--frames", 16, "--count", 100)
    return example


def test_scenes_are_seeded_and_hold_small_objects(example: Example) -> None:
    truth = (example.folder / "scenes" / "val.json").read_text()
    example.script("make_scenes.py", "--frames", 1, "--count", 100, "--output", "same")
    example.script("make_scenes.py", "--frames", 1, "--count", 10, "--output", "other", "--seed", 1)
    assert (example.folder / "same" / "val.json").read_text() == truth
    assert (example.folder / "other" / "val.json").read_text() != truth
    first = (example.folder / "scenes" / "val" / "0001.jpg").read_bytes()
    assert (example.folder / "same" / "val" / "0001.jpg").read_bytes() == first
    areas = [item["area"] for item in json.loads(truth)["annotations"]]
    assert sum(area < 32**2 for area in areas) >= 5
    assert max(areas) > 96**2


def test_yolo_text_labels_give_the_same_ap_as_coco(example: Example, edgeship: Edgeship) -> None:
    truth = json.loads((example.folder / "scenes" / "val.json").read_text())
    classes = (example.folder / "classes.txt").read_text().split("\n")
    names = {item["id"]: item["name"] for item in truth["categories"]}
    files = {item["id"]: item for item in truth["images"]}
    labels = example.folder / "scenes" / "text"
    labels.mkdir()
    for item in truth["annotations"]:
        image = files[item["image_id"]]
        (x, y, w, h), width, height = item["bbox"], image["width"], image["height"]
        row = [classes.index(names[item["category_id"]]), (x + w / 2) / width, (y + h / 2) / height]
        row += [w / width, h / height]
        with (labels / f"{image['file_name'].removesuffix('.jpg')}.txt").open("a") as stream:
            stream.write(" ".join(map(repr, row)) + "\n")
    found = []
    for extra in ((), ("--labels", labels)):
        model = example.folder / "yolox_nano.onnx"
        done = edgeship("evaluate", model, "--config", example.config, *extra, "--limit", 60, "--json")
        assert done.code == 0, done.err
        found.append(done.json)
    coco, yolo = found
    assert yolo["labels"].startswith("YOLO text files: ")
    for name in ("map", "map50", "map75", "ar", "recall"):
        assert yolo["metrics"][name] == pytest.approx(coco["metrics"][name], abs=1e-6)
    assert coco["metrics"]["map50"] > 0.5


def test_int8_loses_what_the_gate_protects(example: Example, edgeship: Edgeship, tmp_path: Path) -> None:
    """Without the search, which is the matter of test_ship_search.py and takes minutes on a network of this size."""
    example.change("count  = 32", 'count  = 16\nmethod = "minmax"')
    example.change("search = true", "search = false")
    done = edgeship("ship", example.config, timeout=900, cwd=example.folder)
    assert (done.code, example.result()["verdict"], example.result()["chosen"]) == (0, "SHIP", "fp32"), done.err
    fp32, int8 = example.trial("fp32"), example.trial("int8")
    assert 0.55 <= fp32["metrics"]["map50"] <= 0.85
    assert int8["drop"]["map50"] > 0.05
    assert not int8["passed"]
    assert any("map50" in reason for reason in int8["reasons"])
    told = handed_over(example.out / "bundle", tmp_path)
    assert (told["triton"], told["cpp"], told["ros2"]) == ("", "", "")
    assert told["deepstream"] == "preprocess.pad_value is 114, and DeepStream pads with black"
