"""examples/fashion ships, and holds what its README says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from examples_support import EXAMPLES, Example, copy_example
from projects import Edgeship

from handover_support import handed_over

FOLDER = EXAMPLES / "fashion"


def digests(folder: Path) -> list[str]:
    """SHA-256 of every picture below a folder."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.png"))]


def test_the_committed_data_is_what_the_readme_says() -> None:
    calibration, evaluation = digests(FOLDER / "calib"), digests(FOLDER / "val")
    assert len(calibration) == 512
    assert [len(list(place.glob("*.png"))) for place in sorted((FOLDER / "val").iterdir())] == [250] * 10
    assert not set(calibration) & set(evaluation)
    assert (FOLDER / "weights.safetensors").stat().st_size < 1_000_000
    assert "MIT License" in (FOLDER / "LICENSE.fashion-mnist").read_text()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return copy_example("fashion", tmp_path_factory.mktemp("fashion") / "example")


@pytest.mark.slow
def test_it_ships(example: Example, edgeship: Edgeship) -> None:
    done = edgeship("ship", example.config, timeout=600)
    assert (done.code, example.result()["verdict"]) == (0, "SHIP"), done.err
    assert example.trial("fp32")["metrics"]["top1"] == pytest.approx(0.9224, abs=0.002)
    assert abs(example.trial("int8")["drop"]["top1"]) < 0.005
    assert example.trial("int8")["audit"]["achieved"] > 0.9


@pytest.mark.slow
def test_it_is_handed_over(example: Example, tmp_path: Path) -> None:
    told = handed_over(example.out / "bundle", tmp_path)
    assert (told["triton"], told["cpp"]) == ("", "")
    assert told["ros2"] == "the node publishes detections, and the task is classification"
    int8 = example.result()["chosen"] == "int8"  # the faster one here
    assert ("in int8" in told["deepstream"] and "DeepStream runs TensorRT" in told["deepstream"]) == int8
    assert bool(told["deepstream"]) == int8


@pytest.mark.slow
def test_a_budget_too_small_for_the_images_is_not_taken_as_passed(example: Example, edgeship: Edgeship) -> None:
    """In the same folder: other rules are judged on the trials that are there."""
    example.change("max_drop = { top1 = 0.01 }", "max_drop = { top1 = 0.002 }")
    example.change('["fp32", "int8"]', '["int8"]')
    done = edgeship("ship", example.config, timeout=600)
    assert (done.code, example.result()["verdict"]) == (3, "INCONCLUSIVE"), done.err
