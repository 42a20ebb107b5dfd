"""What ``check`` refuses: every problem at once, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship import pipeline
from edgeship.config_file import load
from edgeship.errors import ConfigError, EdgeshipError, UserInputError
from edgeship.pipeline.checks import open_targets, problems
from edgeship.pipeline.stages import Run
from edgeship.trial.energy import meter_for
from tiny_project import project


def changed(config: Path, *pairs: tuple[str, str]) -> Path:
    text = config.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    return config


def test_a_good_project_has_no_problem(tmp_path: Path) -> None:
    assert problems(load(project(tmp_path))) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"model.onnx"', '"absent.onnx"', "model.source: no file at"),
        ('"model.onnx"', '"nowhere:build"', "model.source: there is no module 'nowhere'"),
        ('"model.onnx"', '"model.tflite"', "'model.tflite' is neither module:callable nor a path to .onnx or .pt2"),
        ('"model.onnx"', '"w.safetensors"', "'w.safetensors' is a file of weights"),
        ("[preprocess]", 'weights = "w.safetensors"\n[preprocess]', "model.weights: no file at"),
        ('images = "calib/"', 'images = "cal/"', "cal does not exist"),
        ('images = "calib/"', 'npz = "frames.npz"', "no calibration frames at"),
        ('images = "calib/"', 'cache = "calib.cache"', "no calibration cache at"),
        ('images = "val/"', 'images = "evaluation/"', "evaluation does not exist"),
        ('"green", "blue"', '"blue"', "class folders that are not classes: 'green'"),
        ("top1 = 0.5", "top2 = 0.5", "gate.max_drop.top2: no such metric; did you mean 'top1'?"),
        ("[gate]", "[gate]\ncritical = { bleu = 0.1 }", "gate.critical.bleu: no such class; did you mean 'blue'?"),
        ("std = [255.0, 255.0, 255.0]", 'std = [255.0]\ncolor = "gray"', "3 channels"),
        ("std = [255.0, 255.0, 255.0]", "size = [32, 32]", "preprocess.size asks for height 32"),
        ("[target]", '[target]\nplugins = ["p.so"]', "target.plugins: no file at"),
        (
            "[candidates]",
            "[target.shapes.image]\nmin = [1, 3, 16, 16]\nopt = [1, 3, 16, 16]\nmax = [1, 3, 16, 16]\n[candidates]",
            "target.shapes.image: the model has no such input; it has images",
        ),
    ],
)
def test_one_problem_is_told_in_its_own_words(tmp_path: Path, old: str, new: str, words: str) -> None:
    config = load(changed(project(tmp_path), (old, new)))
    with pytest.raises(EdgeshipError) as refused:
        pipeline.check(config, tmp_path / "out")
    assert words in str(refused.value)
    assert not list((tmp_path / "out").glob("stages/*"))


def test_a_fixed_batch_is_no_larger_profile(tmp_path: Path) -> None:
    (problem,) = problems(load(project(tmp_path, batch=1)))
    assert "target.batch: max is 8, and input 'images' has a fixed batch of 1" in str(problem)


def test_a_second_input_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = changed(project(tmp_path, extra_input=True), ("[preprocess]", '[preprocess]\ninput = "images"'))
    (problem,) = problems(load(config))
    assert "images feed 'images' alone, and the model also needs 'size'" in str(problem)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    config = changed(
        project(tmp_path),
        ('"model.onnx"', '"absent.onnx"'),
        ('images = "calib/"', 'images = "cal/"'),
        ("top1 = 0.5", "top2 = 0.5"),
    )
    with pytest.raises(ConfigError) as refused:
        pipeline.check(load(config), tmp_path / "out")
    text = str(refused.value)
    assert "3 problems" in text
    for word in ("absent.onnx", "cal does not exist", "did you mean 'top1'?"):
        assert word in text


def test_a_plan_tells_what_is_reused(tmp_path: Path) -> None:
    config = load(project(tmp_path))
    out = tmp_path / "out"
    before = pipeline.plan(config, out)
    assert [item.reused for item in before] == [False] * len(before)
    assert not out.exists()
    pipeline.check(config, out)
    after = {item.name: item for item in pipeline.plan(config, out)}
    assert [name for name, item in after.items() if item.reused] == ["images", "export", "slim", "look"]
    assert (after["export"].seconds or 0) > 0
    assert after["trial:default:int8"].seconds is None


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ('device = "cuda:0"', "target: onnxruntime on 'cuda:0' cannot run: no CUDA driver"),
        ('device = "cpu"\nhost = "nobody@127.0.0.1:9"', "127.0.0.1"),
    ],
)
def test_a_device_or_host_that_is_not_there_is_told_at_once(tmp_path: Path, target: str, words: str) -> None:
    config = load(changed(project(tmp_path), ("[target]", f"[target]\n{target}")))
    with pytest.raises(EdgeshipError) as refused:
        pipeline.check(config, tmp_path / "out")
    assert words in str(refused.value)
    assert refused.value.stage == "targets"
    assert not list((tmp_path / "out").glob("stages/*"))


@pytest.mark.parametrize("rule", ["power_w = 5.0", "energy_mj_per_frame = 40.0"])
def test_energy_that_nothing_measures_is_told_at_once(tmp_path: Path, rule: str) -> None:
    """As this machine's meter itself says, where it has none."""
    run = Run(load(changed(project(tmp_path), ("[gate]\n", f"[gate]\n{rule}\n"))), tmp_path / "out")
    told = []
    for ask in (lambda: meter_for("cpu").close(), lambda: open_targets(run)):
        try:
            ask()
        except UserInputError as error:
            told.append(error.found)
        else:
            told.append("")
    assert told[0] == told[1]


def test_every_unreadable_image_is_named_at_once_up_to_a_cap(tmp_path: Path) -> None:
    config = project(tmp_path)
    for number in range(12):
        (tmp_path / "val" / "red" / f"{number:03}.png").write_bytes(b"no image")
    whole = (tmp_path / "val" / "blue" / "000.png").read_bytes()
    (tmp_path / "val" / "blue" / "000.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "calib" / "0.png").write_bytes(b"")
    with pytest.raises(ConfigError) as refused:
        pipeline.check(load(config), tmp_path / "out")
    calibration, evaluation = refused.value.problems
    assert calibration.startswith("calibration.images: 1 of 8 images cannot be read: 0.png: ")
    assert evaluation.startswith("evaluation.images: 13 of 72 images cannot be read: ")
    assert "blue/000.png: cannot be decoded" in evaluation
    assert "red/000.png: not an image of a known format" in evaluation
    assert evaluation.endswith("; and 3 more")
    allowed = changed(
        config, ("[evaluation]", "[evaluation]\nallow_corrupt = 13"), ("count = 8", "count = 8\nallow_corrupt = 1")
    )
    found = pipeline.check(load(allowed), tmp_path / "out")
    assert found.looked.judged == 72 - 13
