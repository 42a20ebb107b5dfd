"""examples/segmentation ships, and its masks are what its README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples_support import EXAMPLES, Example, copy_example
from PIL import Image
from projects import Edgeship

from handover_support import handed_over

FOLDER = EXAMPLES / "segmentation"


def test_every_picture_has_a_mask_of_known_classes() -> None:
    pictures = sorted(path.name for path in (FOLDER / "val").glob("*.png"))
    assert pictures == sorted(path.name for path in (FOLDER / "masks").glob("*.png"))
    assert len(pictures) == 200
    values = np.unique(np.stack([np.asarray(Image.open(path)) for path in (FOLDER / "masks").glob("*.png")]))
    assert values.tolist() == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return copy_example("segmentation", tmp_path_factory.mktemp("segmentation") / "example")


@pytest.mark.slow
def test_it_ships(example: Example, edgeship: Edgeship, tmp_path: Path) -> None:
    done = edgeship("ship", example.config, timeout=900)
    assert (done.code, example.result()["verdict"]) == (0, "SHIP"), done.err
    assert example.trial("fp32")["metrics"]["miou"] > 0.55
    assert abs(example.trial("int8")["drop"]["miou"]) < 0.01
    told = handed_over(example.out / "bundle", tmp_path)
    assert (told["triton"], told["cpp"]) == ("", "")
    int8 = example.result()["chosen"] == "int8"  # the faster one here
    assert (bool(told["deepstream"]), "DeepStream runs TensorRT" in told["deepstream"]) == (int8, int8)


@pytest.mark.slow
def test_it_ships_on_openvino_with_the_same_accuracy(example: Example, edgeship: Edgeship, tmp_path: Path) -> None:
    """In the same folder: what was exported and calibrated serves both engines."""
    example.change('engine = "onnxruntime"', 'engine = "openvino"')
    example.change("bag = 0.03", "bag = 0.04")  # fp32 is judged too: 95 bags bound its drop at 0.032
    done = edgeship("ship", example.config, timeout=900)
    assert (done.code, example.result()["verdict"]) == (0, "SHIP"), done.err
    assert abs(example.trial("fp32")["drop"]["miou"]) < 1e-4, (
        "the reference runs on onnxruntime, in the same arithmetic"
    )
    assert abs(example.trial("int8")["drop"]["miou"]) < 0.01
    assert example.trial("int8")["audit"]["achieved"] > 0.95
    picture = next((example.folder / "val").glob("*.png"))
    told = handed_over(example.out / "bundle", tmp_path)
    assert "no backend that opens this engine as it was judged (openvino)" in told["triton"]
    assert told["cpp"] == ""
    answer = edgeship("run", example.out / "bundle", picture, "--json")
    assert answer.code == 0, answer.err
