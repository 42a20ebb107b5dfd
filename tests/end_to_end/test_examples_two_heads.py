"""examples/two_heads: boxes and free road by one network, judged in one run."""

from __future__ import annotations

import re

import pytest
from examples_support import Example, copy_example
from projects import Edgeship

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    made = copy_example("two_heads", tmp_path_factory.mktemp("heads") / "example")
    assert "160 scenes" in made.script("make_scenes.py")
    return made


def test_it_ships_with_both_tasks(example: Example, edgeship: Edgeship) -> None:
    done = edgeship("ship", example.config, timeout=900)
    assert (done.code, example.result()["verdict"]) == (0, "SHIP"), done.err
    metrics = example.trial("fp32")["metrics"]
    assert metrics["objects.map50"] > 0.7
    assert metrics["road.miou"] > 0.9
    drop = example.trial("int8")["drop"]
    assert abs(drop["objects.map50"]) < 0.05
    assert abs(drop["road.miou"]) < 0.01


def test_the_report_shows_boxes_and_masks_that_changed(example: Example) -> None:
    page = (example.out / "report.html").read_text(encoding="utf-8")
    gallery = page[page.index("Images that changed their answer") :]
    objects, road = gallery.index("<h3>objects</h3>"), gallery.index("<h3>road</h3>")
    assert objects < road
    assert re.search(r"\d+ of \d+ found", gallery[objects:road])
    assert "of pixels right" not in gallery[objects:road]
    assert "of pixels right" in gallery[road:]


def test_the_vehicle_answers_both(example: Example, edgeship: Edgeship) -> None:
    picture = next((example.folder / "scenes" / "val").glob("*.png"))
    answer = edgeship("run", example.out / "bundle", picture, "--json")
    assert answer.code == 0, answer.err
    assert "objects" in answer.out
    assert "road" in answer.out
