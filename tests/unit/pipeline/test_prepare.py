"""What goes into the stages of prepare: keys that see every input, and frames with a corrupt one among them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from edgeship.config import Config
from edgeship.config_file import load
from edgeship.errors import ConfigError, DataError, UserInputError
from edgeship.files import sha256_json
from edgeship.pipeline import prepare
from edgeship.pipeline.calibration import calibrate_key
from edgeship.pipeline.checks import check_data
from edgeship.pipeline.frames import KnownFrames
from edgeship.pipeline.stages import Run
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import trial_stage
from edgeship.results import Artifact, Candidate, Slimmed, TensorInfo
from vehicle_support import network

IMAGES = TensorInfo(name="images", shape=("batch", 3, 8, 8), dtype="float32")
CANDIDATE = Candidate(name="fp32", precision="fp32")


def run_in(folder: Path, text: str) -> Run:
    """A run whose slim stage is done."""
    path = folder / "edgeship.toml"
    path.write_text('[model]\nsource = "model:build"\n[preprocess]\nfit = "stretch"\n' + text)
    run = Run(load(path), folder / "out")
    model = Artifact(path="model.onnx", sha256="0", size_bytes=1)
    run.results["slim"] = Slimmed(model=model, inputs=(IMAGES,), outputs=(), nodes_before=1, nodes_after=1)
    run.results["frames"] = KnownFrames(arrays=None)
    return run


def keys(folder: Path, text: str) -> list[object]:
    run = run_in(folder, text)
    trial = trial_stage(CANDIDATE, TargetTrials("default", run.config.target))
    return [prepare.frames_key(run), calibrate_key(run), trial.key(run)]


def test_code_that_gives_the_images_belongs_to_what_they_are(tmp_path: Path) -> None:
    config = '[evaluation]\nimages = "data:labelled"\n[candidates]\nprecisions = ["fp32"]\n'
    (tmp_path / "data.py").write_text("LABEL = 'Bag'\n")
    before = keys(tmp_path, config)
    assert keys(tmp_path, config) == before
    (tmp_path / "data.py").write_text("LABEL = 'Dress'\n")
    assert all(new != old for new, old in zip(keys(tmp_path, config), before, strict=True))


@pytest.mark.parametrize("key", ["task", "decoder"])
def test_code_that_scores_or_decodes_belongs_to_the_trial(tmp_path: Path, key: str) -> None:
    config = f'[evaluation]\n{key} = "own.code:score"\n[candidates]\nprecisions = ["fp32"]\n'
    (tmp_path / "own").mkdir()  # a folder without __init__.py is a package too
    (tmp_path / "own" / "code.py").write_text("score = 1\n")
    before = keys(tmp_path, config)
    (tmp_path / "own" / "code.py").write_text("score = 22\n")
    after = keys(tmp_path, config)
    assert after[2] != before[2]
    assert after[:2] == before[:2], "frames and ranges do not depend on it"


def test_a_trial_is_bound_to_the_machine_that_ran_it(tmp_path: Path) -> None:
    """The machine's own words stand in the key, and it is asked once in a run."""
    run = run_in(tmp_path, '[candidates]\nprecisions = ["fp32"]\n')
    stage = trial_stage(CANDIDATE, TargetTrials("default", run.config.target))
    before = stage.key(run)
    (known,) = run.machines.values()
    assert before["machine"] == known
    assert known["identity"]["version"] == onnxruntime.__version__
    assert known["identity"]["device"] and known["libraries"]["pillow"]
    digest = sha256_json(before)
    known["identity"] = known["identity"] | {"version": "99.1.0"}
    assert sha256_json(stage.key(run)) != digest


def test_a_plugin_of_the_same_name_with_other_content_is_another_trial(tmp_path: Path) -> None:
    (tmp_path / "own.so").write_bytes(b"one")
    config = '[target]\nplugins = ["own.so"]\n[candidates]\nprecisions = ["fp32"]\n'
    before = keys(tmp_path, config)
    (tmp_path / "own.so").write_bytes(b"two!")
    assert keys(tmp_path, config)[2] != before[2]


def test_external_data_belongs_to_the_export(tmp_path: Path) -> None:
    proto = onnx.load(network(tmp_path / "whole.onnx"))
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    config = Config.model_validate({"model": {"source": str(tmp_path / "net.onnx")}})
    before = prepare.export_key(Run(config, tmp_path))
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert prepare.export_key(Run(config, tmp_path)) != before


def corrupt_among(folder: Path) -> None:
    (folder / "calib").mkdir()
    for number in range(8):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / "calib" / f"{number}.png")
    (folder / "calib" / "2.png").write_bytes((folder / "calib" / "2.png").read_bytes()[:40])


def test_a_corrupt_known_frame_is_allowed_where_the_config_says_so(tmp_path: Path) -> None:
    corrupt_among(tmp_path)
    out = tmp_path / "stage"
    out.mkdir()
    text = '[calibration]\nimages = "calib/"\nallow_corrupt = '
    with pytest.raises(DataError, match="corrupt"):
        prepare.frames_work(run_in(tmp_path, text + "0"), out)
    found = prepare.frames_work(run_in(tmp_path, text + "1"), out)
    assert found.ids == tuple(f"{number}.png" for number in (0, 1, 3, 4, 5, 6, 7))


def test_no_readable_frame_at_all_is_said(tmp_path: Path) -> None:
    corrupt_among(tmp_path)
    for path in (tmp_path / "calib").iterdir():
        shutil.copyfile(tmp_path / "calib" / "2.png", path) if path.name != "2.png" else None
    with pytest.raises(DataError, match="none of the 8 frames"):
        prepare.frames_work(run_in(tmp_path, '[calibration]\nimages = "calib/"\nallow_corrupt = 8'), tmp_path)


def test_a_misspelt_task_is_refused_before_anything_long(tmp_path: Path) -> None:
    text = '[evaluation]\ntask = "segmentaton"\n[candidates]\nprecisions = ["fp32"]\n'
    with pytest.raises(UserInputError, match="did you mean 'segmentation'"):
        check_data(run_in(tmp_path, text).config)


def labelled(folder: Path, gate: str, classes: str = '["bag", "dress"]', evaluation: str = "") -> Config:
    """A config with two labelled images and these rules."""
    for number, name in enumerate(("bag", "dress") if "bag" in classes else ("0", "1")):
        (folder / "val" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / "val" / name / "a.png")
    (folder / "model.py").write_text("")
    named = f"classes = {classes}\n" if classes else ""
    text = f'[evaluation]\nimages = "val/"\n{named}{evaluation}[candidates]\nprecisions = ["fp32"]\n[gate]\n{gate}'
    return run_in(folder, text).config


def test_misspelt_names_in_the_gate_are_told_at_once_before_anything_long(tmp_path: Path) -> None:
    gate = 'max_drop = { top_1 = 0.01, top5 = 0.01 }\ncritical = { bug = 0.01 }\ncritical_metric = "iou"\n'
    with pytest.raises(ConfigError) as caught:
        check_data(labelled(tmp_path, gate))
    assert caught.value.problems == (
        "gate.critical_metric: 'iou' is not a metric of this task's classes; use recall",
        "gate.max_drop.top_1: no such metric; did you mean 'top1'?",
        "gate.max_drop.top5: no such metric; did you mean 'top1'?",
        "gate.critical.bug: no such class; did you mean 'bag'?",
    )
    check_data(labelled(tmp_path, "max_drop = { top1 = 0.01 }\ncritical = { bag = 0.01 }\n"))


def test_numbers_that_the_model_may_extend_are_left_to_the_gate(tmp_path: Path) -> None:
    config = labelled(tmp_path, 'max_drop = { top5 = 0.01 }\ncritical = { "7" = 0.01 }\n', classes="")
    check_data(config)


def test_the_classes_of_a_task_of_ones_own_are_known_by_its_records_alone(tmp_path: Path) -> None:
    check_data(labelled(tmp_path, "critical = { bag = 0.01 }\n", evaluation='task = "own:score"\n'))
