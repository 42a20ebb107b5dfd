"""Evaluation on real onnxruntime sessions of tiny networks whose answers are known."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeship import engines, metrics
from edgeship.config import Batch, Evaluation, Preprocess
from edgeship.engines import OpenOptions
from edgeship.errors import DataError
from edgeship.metrics import paired
from edgeship.trial.evaluate import batch_rows, evaluate, load_records
from processes import edgeship

LEVELS = (20.0, 120.0, 220.0)
"""The brightness that stands for each class."""
GRAY = Preprocess(fit="stretch", color="gray")


def save(path, nodes, inputs, outputs, constants):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def brightness_net(path, batch="batch"):
    """Logits that are highest for the nearest of LEVELS: 2 c x - c squared."""
    levels = np.array(LEVELS, np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scaled"]),
        helper.make_node("Add", ["scaled", "b"], ["y"]),
    ]
    constants = {"w": (2 * levels)[None] / 1000, "b": -(levels**2) / 1000}
    return save(path, nodes, {"x": [batch, 1, 8, 8]}, {"y": [batch, 3]}, constants)


def opened(path):
    return engines.get("onnxruntime").open(path, OpenOptions())


@pytest.fixture
def shades(tmp_path):
    """30 images in folders dark, mid, bright; two of the bright ones lie in the wrong folder."""
    random = np.random.default_rng(0)
    for number in range(30):
        level = number % 3
        folder = ("dark", "mid", "bright")[level if number not in (2, 5) else 0]
        value = int(LEVELS[level] + random.integers(-15, 15))
        path = tmp_path / "val" / folder / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (random.integers(4, 40), random.integers(4, 40)), value).save(path)
    return Evaluation(images=tmp_path / "val", classes=("dark", "mid", "bright"), batch=4)


def test_classification_end_to_end(tmp_path, shades):
    seen = []
    with opened(brightness_net(tmp_path / "m.onnx")) as runner:
        found = evaluate(
            runner, shades, GRAY, folder=tmp_path, progress=lambda done, total, what: seen.append((done, total))
        )
    assert found.metrics["top1"] == pytest.approx(28 / 30)
    assert found.per_class["recall"] == {"dark": pytest.approx(10 / 12), "mid": 1.0, "bright": 1.0}
    assert found.examples == {"dark": 12, "mid": 10, "bright": 8}
    assert found.images == 30
    assert seen[0] == (0, 30)
    assert seen[-1] == (30, 30)
    records = load_records(tmp_path / "records.npz")
    assert metrics.task_of(records).summarize(records).metrics == found.metrics
    assert found.records is not None
    assert len(set(records["digests"])) > 1


def test_a_fixed_batch_is_padded_and_gives_the_same_records(tmp_path, shades):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with opened(brightness_net(tmp_path / "free.onnx")) as runner:
        free = evaluate(runner, shades, GRAY, folder=tmp_path / "a")
    with opened(brightness_net(tmp_path / "fixed.onnx", batch=7)) as runner:
        fixed = evaluate(runner, shades, GRAY, folder=tmp_path / "b")
    assert fixed.metrics == free.metrics
    assert fixed.images_sha256 == free.images_sha256
    reference, candidate = load_records(tmp_path / "a/records.npz"), load_records(tmp_path / "b/records.npz")
    paired.require_same_images(reference, candidate)
    assert paired.agreement(reference, candidate) == 1.0


def test_batches_stay_within_the_profile():
    info = engines.TensorInfo(name="x", shape=("batch", 1, 8, 8), dtype="float32")
    assert batch_rows(info, 8, None) == (8, False)
    assert batch_rows(info, 8, Batch(min=1, opt=2, max=4)) == (4, False)
    assert batch_rows(info, 1, Batch(min=2, opt=2, max=4)) == (2, True)
    assert batch_rows(info.model_copy(update={"shape": (3, 1, 8, 8)}), 8, None) == (3, True)


def test_a_gpu_evaluates_at_the_batch_that_is_measured_and_never_at_another():
    info = engines.TensorInfo(name="x", shape=("batch", 1, 8, 8), dtype="float32")
    profile = Batch(min=1, opt=2, max=16)
    assert batch_rows(info, None, profile) == (2, False)
    assert batch_rows(info, None, profile, gpu=True) == (2, True)
    assert batch_rows(info, 4, profile, gpu=True) == (4, True)
    assert batch_rows(info, None, None, gpu=True) == (8, True)


def test_changed_images_have_another_identity(tmp_path, shades):
    with opened(brightness_net(tmp_path / "m.onnx")) as runner:
        before = evaluate(runner, shades, GRAY, folder=tmp_path)
        again = evaluate(runner, shades, GRAY, folder=tmp_path)
        Image.new("L", (9, 9), 20).save(shades.images / "dark" / "00.png")
        after = evaluate(runner, shades, GRAY, folder=tmp_path)
    assert again.images_sha256 == before.images_sha256
    assert after.images_sha256 != before.images_sha256


def test_corrupt_images_are_named(tmp_path, shades):
    (shades.images / "mid" / "01.png").write_bytes(b"broken")
    with opened(brightness_net(tmp_path / "m.onnx")) as runner:
        with pytest.raises(DataError, match=r"1 corrupt image so far: .*01\.png"):
            evaluate(runner, shades, GRAY, folder=tmp_path)
        assert not (tmp_path / "records.npz").exists()
        allowed = evaluate(runner, shades.model_copy(update={"allow_corrupt": 1}), GRAY, folder=tmp_path)
    assert allowed.images == 29
    assert len(allowed.skipped) == 1
    assert "01.png" in allowed.skipped[0]


def test_class_names_must_match_the_head(tmp_path, shades):
    with (
        opened(brightness_net(tmp_path / "m.onnx")) as runner,
        pytest.raises(DataError, match="output has 3 classes, the labels name 4"),
    ):
        evaluate(runner, shades, GRAY, classes=("dark", "mid", "bright", "neon"), folder=tmp_path)


@pytest.fixture
def threshold_net(tmp_path):
    """Two-class logits per pixel: bright pixels are class 1."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    constants = {"w": np.array([0, 1], np.float32).reshape(2, 1, 1, 1), "b": np.array([0, -100], np.float32)}
    return save(tmp_path / "seg.onnx", nodes, {"x": ["batch", 1, 16, 24]}, {"y": ["batch", 2, 16, 24]}, constants)


def paint(folder, name, mask):
    for kind, values in (("images", mask * 200), ("masks", mask)):
        path = folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(path)


def test_segmentation_end_to_end(tmp_path, threshold_net):
    for number in range(5):
        mask = np.zeros((16, 24))
        mask[number : number + 6, 3:9] = 1
        paint(tmp_path, f"{number}.png", mask)
    settings = Evaluation(
        task="segmentation", images=tmp_path / "images", labels=tmp_path / "masks", classes=("road", "lane")
    )
    with opened(threshold_net) as runner:
        found = evaluate(runner, settings, GRAY, folder=tmp_path)
    assert found.metrics == {"miou": 1.0, "pixel_accuracy": 1.0}
    assert found.examples == {"road": 5, "lane": 5}


def test_a_wrong_mask_names_its_image(tmp_path, threshold_net):
    mask = np.zeros((16, 24))
    mask[3, 3] = 255
    paint(tmp_path, "odd.png", mask)
    settings = Evaluation(
        task="segmentation", images=tmp_path / "images", labels=tmp_path / "masks", classes=("road", "lane")
    )
    with (
        opened(threshold_net) as runner,
        pytest.raises(DataError, match=r"(?s)odd\.png: its mask holds the values 255"),
    ):
        evaluate(runner, settings, GRAY, folder=tmp_path)


def test_what_a_decoder_of_ones_own_gives_wrongly_is_told_with_its_image(tmp_path, threshold_net, monkeypatch):
    (tmp_path / "half_size.py").write_text("def mask(outputs, geometry):\n    return outputs['y'][0, ::2]\n")
    monkeypatch.chdir(tmp_path)
    paint(tmp_path, "a.png", np.zeros((16, 24)))
    settings = Evaluation(
        task="segmentation",
        images=tmp_path / "images",
        labels=tmp_path / "masks",
        classes=("road", "lane"),
        decoder="half_size:mask",
    )
    with (
        opened(threshold_net) as runner,
        pytest.raises(DataError, match=r"(?s)a\.png: half_size:mask returned shape \[8, 24\].*a mask \[16, 24\]"),
    ):
        evaluate(runner, settings, GRAY, folder=tmp_path)


def test_detection_end_to_end(tmp_path):
    """A network that always finds the same two boxes, one of them where the truth is."""
    rows = np.array([[[8, 8, 24, 24, 0.9, 1], [40, 40, 50, 50, 0.8, 0]]], np.float32)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["y"]),
    ]
    constants = {"rows": rows, "zero": np.array(0, np.float32)}
    path = save(tmp_path / "det.onnx", nodes, {"x": [1, 3, 64, 64]}, {"y": [1, 2, 6]}, constants)
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (128, 128)).save(tmp_path / "images" / f"{name}.png")
    truth = {
        "images": [{"id": k, "file_name": f"{name}.png", "width": 128, "height": 128} for k, name in enumerate("ab")],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 2, "bbox": [16, 16, 32, 32], "area": 1024},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [60, 60, 32, 32], "area": 1024},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(truth))
    settings = Evaluation(
        task="detection",
        images=tmp_path / "images",
        labels=tmp_path / "coco.json",
        classes=("person", "car"),
        decoder="nms",
    )
    with opened(path) as runner:
        found = evaluate(runner, settings, Preprocess(fit="letterbox"), folder=tmp_path)
    assert found.per_class["recall"] == {"car": 0.5}
    assert found.metrics["map50"] == pytest.approx(51 / 101)
    assert found.per_class["precision"] == {"car": 0.5, "person": 0.0}
    assert found.examples == {"person": 0, "car": 2}


def test_the_command(tmp_path, shades):
    model = brightness_net(tmp_path / "m.onnx")
    names = tmp_path / "names.txt"
    names.write_text("dark\nmid\nbright\n")
    common = ["evaluate", model, "--images", shades.images, "--classes", names, "-p", "fit=stretch"]
    done = edgeship(*common, "-p", "color=gray", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["top1"] == pytest.approx(28 / 30)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json", "records.npz"]
    text = edgeship(*common, "-p", "color=gray", "--limit", 9)
    assert "classification: 9 images" in text.stdout
    wrong = edgeship(*common, "-p", "colour=gray")
    assert wrong.returncode == 2
    assert "did you mean 'color'?" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_callable_of_the_configs_folder_is_found_from_elsewhere(tmp_path, shades):
    model = brightness_net(tmp_path / "m.onnx")
    (tmp_path / "shade_pictures.py").write_text(
        "from pathlib import Path\n"
        "def pictures():\n"
        "    for path in sorted((Path(__file__).parent / 'val').rglob('*.png')):\n"
        "        yield path, path.parent.name\n"
    )
    (tmp_path / "edgeship.toml").write_text(
        '[model]\nsource = "m.onnx"\n[preprocess]\nfit = "stretch"\ncolor = "gray"\n'
        '[candidates]\nprecisions = ["fp32"]\n'
        '[evaluation]\nimages = "shade_pictures:pictures"\nclasses = ["dark", "mid", "bright"]\n'
    )
    done = edgeship("evaluate", model, "--config", tmp_path / "edgeship.toml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["top1"] == pytest.approx(28 / 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.onnx"], "no file at absent.onnx"),
        (["{model}"], "no preprocessing was given"),
        (["{model}", "-p", "fit=stretch"], "evaluation.images is missing"),
        (["{model}", "-p", "fit=stretch", "--task", "clasification"], "did you mean 'classification'?"),
        (["{model}", "-p", "fit=stretch", "--batch", "0"], "batch"),
        (["{model}", "-p", "fit=stretch", "--engine", "tensort"], "did you mean 'tensorrt'?"),
    ],
)
def test_wrong_commands(tmp_path, arguments, message):
    model = brightness_net(tmp_path / "m.onnx")
    done = edgeship("evaluate", *(argument.format(model=model) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
