"""What a trial needs on a device: the files of every task and input, under the device's own paths."""

from __future__ import annotations

from pathlib import Path

import pytest

import several_inputs
import two_heads
from edgeship.config_file import load
from edgeship.results import Artifact, Candidate, TrialSpec, trial_folder
from edgeship.targets.sending import plan_of


def planned(config_file: Path) -> dict[str, str]:
    """The files of the plan by the setting that names them."""
    config, folder = load(config_file), config_file.parent
    spec = TrialSpec(
        candidate=Candidate(name="fp32", precision="fp32"),
        target=config.target,
        model=Artifact.of(folder / "model.onnx", folder),
        benchmark=None,
        evaluation=config.evaluation,
        preprocess=config.preprocess,
    )
    trial_folder.write_spec(spec, folder)
    plan = plan_of(folder)
    for _, tree in plan.trees.items():
        assert all(digest in plan.blobs for digest in tree.values())
    return {name: place for name, (_, place) in plan.places.items()}


def test_every_task_sends_its_labels_and_all_the_same_images(tmp_path: Path) -> None:
    places = planned(two_heads.project(tmp_path, images=2))
    assert places == {
        "images": "val", "boxes.images": "val", "lanes.images": "val", "boxes.labels": "boxes.json",
        "lanes.labels": "masks",
    }  # fmt: skip


def test_weights_beside_a_large_model_are_sent_with_it(tmp_path: Path) -> None:
    config_file = two_heads.project(tmp_path, images=2)
    planned(config_file)
    assert set(plan_of(config_file.parent).inputs) == {"model.onnx"}
    (config_file.parent / "model.onnx.data").write_bytes(b"weights")
    plan = plan_of(config_file.parent)
    assert plan.blobs[plan.inputs["model.onnx.data"]].read_bytes() == b"weights"


@pytest.mark.parametrize(("name", "place"), [("left", "left"), ("prior", "val/prior.csv"), ("pose", "poses.csv")])
def test_every_input_sends_what_its_values_lie_in(tmp_path: Path, name: str, place: str) -> None:
    places = planned(several_inputs.project(tmp_path, images=2))
    assert places[f"inputs.{name}"] == place
    assert not {"inputs.size", "inputs.matrix"} & places.keys()
