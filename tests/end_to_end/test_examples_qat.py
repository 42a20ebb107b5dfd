"""examples/qat: the gate refuses plain INT8, and ships what was trained without labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples_support import EXAMPLES, Example, copy_example
from projects import Edgeship

from handover_support import handed_over


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Half of the training, and a limit to match."""
    example = copy_example("qat", tmp_path_factory.mktemp("qat") / "example")
    example.change('"../fashion/', f'"{EXAMPLES / "fashion"}/')
    example.change("epochs = 4", "steps  = 56")
    example.change("top1 = 0.02", "top1 = 0.03")
    return example


@pytest.mark.slow
def test_training_without_labels_ships_what_calibration_alone_cannot(
    example: Example, edgeship: Edgeship, tmp_path: Path
) -> None:
    done = edgeship("qat", example.config, "--json", timeout=600)
    assert done.code == 0, done.err
    assert done.json["improved"] and done.json["not_rounded"] == [] and done.json["deployed_snr_db"] > 30.0
    done = edgeship("ship", example.config, timeout=600)
    result = example.result()
    said = [item["reasons"] for item in result["trials"]]
    assert (done.code, result["verdict"], result["chosen"]) == (0, "SHIP", "int8-qat"), said
    assert next(item for item in result["stages"] if item["name"] == "qat")["cached"]
    plain, trained = example.trial("int8"), example.trial("int8-qat")
    assert plain["outcome"] == "fail" and plain["drop"]["top1"] > 0.05
    assert trained["drop"]["top1"] < 0.3 * plain["drop"]["top1"]
    assert trained["engine_mib"] == pytest.approx(plain["engine_mib"], rel=0.02)
    told = handed_over(example.out / "bundle", tmp_path)
    assert (told["triton"], told["cpp"]) == ("", "")
    assert "DeepStream runs TensorRT" in told["deepstream"]


def test_the_committed_weights_are_small() -> None:
    assert (EXAMPLES / "qat" / "weights.safetensors").stat().st_size < 300_000
