"""The trained candidate: beside the others where there is a [qat] table, and refused where training did not help."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgeship.cli.qat import _lines
from edgeship.config import Target
from edgeship.config_file import load
from edgeship.errors import ConfigError, DataError, QuantizeError
from edgeship.pipeline import train
from edgeship.pipeline.candidates import candidates
from edgeship.pipeline.checks import problems
from edgeship.pipeline.frames import KnownFrames
from edgeship.pipeline.origins import graph_of, ranges_stage, require_improved
from edgeship.pipeline.qat import QAT, _frames, _require_apart, left_over, qat_key
from edgeship.pipeline.stages import Run
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.results import Artifact, Calibrated, Candidate, Slimmed, TensorInfo, Trained, TrainedPoint

CONFIG = """
[model]
source = "model:build"
[preprocess]
fit = "stretch"
[calibration]
images = "calib/"
[quantization]
keep = ["first"]
"""
FILE = Artifact(path="model.onnx", sha256="t", size_bytes=1)
TRAINED = Candidate(name="int8-qat", precision="int8", trained=True)
TRIALS = TargetTrials("default", Target(engine="onnxruntime"))


def run_with(folder: Path, best_step: int) -> Run:
    """A run whose training ended with 0.3 from 0.2, or with 0.1."""
    (folder / "edgeship.toml").write_text(CONFIG + '[qat]\nkeep = ["op:Softmax"]\n')
    run = Run(load(folder / "edgeship.toml"), folder / "out")
    after = 0.1 if best_step else 0.3
    curve = (TrainedPoint(step=0, loss=None, held_out=0.2), TrainedPoint(step=9, loss=0.5, held_out=after))
    run.results[QAT.name] = Trained(
        model=FILE, weights=FILE, cache=FILE, ranges=FILE, how="distill", style="onnxruntime", steps=9,
        best_step=best_step, judged_on="the loss", held_out_before=0.2, held_out_after=min(0.2, after), curve=curve,
        rounded=1, weighted=1, deployed_snr_db=50.0, device="cpu", seconds=1.0,
    )  # fmt: skip
    run.folders[QAT.name] = folder / "out" / "stages" / "qat-1"
    return run


def test_the_candidate_keeps_what_all_int8_keeps_and_what_training_kept(tmp_path: Path) -> None:
    run = run_with(tmp_path, 9)
    last = candidates(run.config)[-1]
    assert (last.name, last.precision, last.keep, last.trained) == ("int8-qat", "int8", ("first", "op:Softmax"), True)
    assert graph_of(run, last, TRIALS) == (tmp_path / "out/stages/qat-1/model.onnx", "t")
    assert ranges_stage(last, TRIALS) is QAT


def test_training_that_did_not_help_is_refused_with_its_numbers(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match=r"was 0\.2 with calibration alone and 0\.3 at best in 9 steps"):
        require_improved(run_with(tmp_path, 0), TRAINED, TRIALS)
    require_improved(run_with(tmp_path, 9), TRAINED, TRIALS)


def test_another_state_of_the_code_is_another_training_and_the_first_stays(tmp_path: Path) -> None:
    run = run_with(tmp_path, 9)
    (tmp_path / "model.py").write_text("")
    images = TensorInfo(name="images", shape=("batch", 3, 8, 8), dtype="float32")
    run.results["slim"] = Slimmed(model=FILE, inputs=(images,), outputs=(), nodes_before=1, nodes_after=1)
    run.results["frames"] = KnownFrames(arrays=None)
    run.results["calibrate"] = Calibrated(
        cache=FILE, ranges=FILE, method="minmax", frames=1, frames_sha256="f", graph_sha256="g",
        preprocess_sha256="p", tensors=1,
    )  # fmt: skip
    (tmp_path / "calib").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "calib" / "a.png")
    first = qat_key(run)
    assert first == qat_key(run)
    (tmp_path / "model.py").write_text("CHANGED = True\n")
    assert qat_key(run) != first
    for name in ("qat-1", "qat-2"):
        (tmp_path / "out" / "stages" / name / "checkpoint-00000004").mkdir(parents=True)
    (note,) = left_over(tmp_path / "out" / "stages" / "qat-2")
    assert note == "An unfinished training of another state of code, data or settings stays in stages/qat-1."


def test_what_did_not_help_is_said_and_kept(tmp_path: Path) -> None:
    run = run_with(tmp_path, 0)
    said = list(_lines(run.result(QAT), run.folders[QAT.name], tmp_path / "edgeship.toml"))
    assert "warning: no trained state is better than calibration alone; int8-qat will not ship" in said
    assert f"weights            {run.folders[QAT.name] / 'model.onnx'}" in said


def test_evaluation_images_are_not_trained_on(tmp_path: Path) -> None:
    for name, shade in (("calib/a.png", 10), ("calib/b.png", 20), ("val/x/c.png", 30), ("val/y/b.png", 20)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(tmp_path / name)
    (tmp_path / "edgeship.toml").write_text(CONFIG + '[evaluation]\nimages = "val/"\n[qat]\n')
    run = Run(load(tmp_path / "edgeship.toml"), tmp_path / "out")
    images = TensorInfo(name="images", shape=("batch", 3, 8, 8), dtype="float32")
    run.results["slim"] = Slimmed(model=FILE, inputs=(images,), outputs=(), nodes_before=1, nodes_after=1)
    chosen = _frames(run)
    with pytest.raises(DataError, match=r"1 of 2 frames to train on are evaluation images, for instance b\.png"):
        _require_apart(run, chosen)
    (tmp_path / "val/y/b.png").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "val/y/b.png")
    assert _require_apart(run, chosen) == ()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('images = "train.npz"', "no frames to train on at"),
        ('images = "train/"', "train does not exist"),
        ('step = "tune:step"\ndata = "nowhere:loader"', "qat.step: there is no module 'tune'"),
        ('data = "nowhere:loader"', "qat.data: there is no module 'nowhere'"),
    ],
)
def test_what_training_lacks_is_told_before_anything_runs(tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "model.py").write_text("")
    (tmp_path / "calib").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "calib" / "a.png")
    (tmp_path / "edgeship.toml").write_text(f"{CONFIG}[qat]\n{table}\n")
    assert [words for error in problems(load(tmp_path / "edgeship.toml")) if words in str(error)] == [words]


def test_a_config_without_the_table_is_not_trained(tmp_path: Path) -> None:
    (tmp_path / "edgeship.toml").write_text(CONFIG)
    config = load(tmp_path / "edgeship.toml")
    assert not QAT.needed(Run(config, tmp_path))
    assert all(not candidate.trained for candidate in candidates(config))
    with pytest.raises(ConfigError, match="qat: missing"):
        train(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('source = "m.onnx"\n[qat]', "m.onnx, whose weights cannot be trained"),
        ('source = "m.pt2"\n[qat]', "m.pt2, whose weights cannot be trained"),
        ('source = "m:build"\n[qat]\nepochs = 1\nsteps = 5', "set epochs or steps, not both"),
        ('source = "m:build"\n[qat]\namp = true', 'amp = true needs device = "cuda:0"'),
        ('source = "m:build"\n[qat]\nimages = "a"\ndata = "m:loader"', "set images or data, not both"),
        ('source = "m:build"\n[qat]\nstep = "train:step"', "with data ="),
        ('source = "m:build"\n[qat]\nstep = "distil"', 'step is "distill"'),
        ('source = "m:build"\n[qat]\noptimizer = "adan"', "did you mean 'adam'"),
        ('source = "m:build"\n[qat]\nsceduler = 3', "did you mean 'schedule'"),
    ],
)
def test_settings_that_contradict_are_named(tmp_path: Path, text: str, words: str) -> None:
    rest = '\n[preprocess]\nfit = "stretch"\n[calibration]\nimages = "calib/"\n'
    (tmp_path / "edgeship.toml").write_text(f"[model]\n{text}{rest}")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "edgeship.toml")
    assert words in str(caught.value)
