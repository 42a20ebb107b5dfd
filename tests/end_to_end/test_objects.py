"""Objects that are more than boxes through ship: COCO's labels, Ultralytics' heads, the gate, the bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from projects import Edgeship
from runtime_figures import of_bundle

from small_project import BENCHMARK

CONFIG = (
    """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
std = [255.0]
[candidates]
precisions = ["fp32"]
[evaluation]
task = "TASK"
images = "val/"
labels = "LABELS"
"""
    + BENCHMARK
    + """[gate]
max_drop = { map = 0.2 }
"""
)
SIDE, CELL = 32, (4, 8)


def network(path: Path, task: str) -> None:
    """Ultralytics' outputs from arithmetic: one box for each cell of the image that is bright somewhere.

    Masks: one prototype that is positive where a pixel is bright. Keypoints: the cell's corner and its centre. Rotated
    boxes: the cell at no angle.
    """
    rows, columns = SIDE // CELL[0], SIDE // CELL[1]
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    cells = np.stack([(x + 0.5) * CELL[1], (y + 0.5) * CELL[0], 0 * x + CELL[1], 0 * y + CELL[0]])
    centre, one = cells[:2], np.ones((1, *cells.shape[1:]))
    corner = centre - cells[2:] / 2
    extras = {"instances": one, "keypoints": np.concatenate([corner, one, centre, one]), "rotated": 0 * one}
    extra = extras[task]
    constants = {
        "w": np.full((1, 3, 1, 1), 1 / 3),
        "half": np.array([-0.5]),
        "zero": np.zeros(1),
        "boxes": cells.reshape(1, 4, -1),
        "extra": extra.reshape(1, len(extra), -1),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["grey"]),
        helper.make_node("MaxPool", ["grey"], ["peaks"], kernel_shape=CELL, strides=CELL),
        helper.make_node("Reshape", ["peaks", "shape"], ["scores"]),
        helper.make_node("Mul", ["scores", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["placed"]),
        helper.make_node("Add", ["nothing", "extra"], ["more"]),
        helper.make_node("Concat", ["placed", "scores", "more"], ["output0"], axis=1),
    ]
    if task == "instances":
        nodes.append(helper.make_node("Conv", ["images", "w", "half"], ["prototypes"]))
    else:
        del constants["half"]
    given = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    given.append(numpy_helper.from_array(np.array([0, 1, -1]), "shape"))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 5 + len(extra), rows * columns]),
            helper.make_tensor_value_info("prototypes", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE]),
        ][: 2 if task == "instances" else 1],
        given,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def cell_line(corner: list[float]) -> str:
    """The cell at a corner as YOLO has rotated boxes: class and four corners as fractions."""
    (x, y), (height, width) = corner, CELL
    points = (x, y, x + width, y, x + width, y + height, x, y + height)
    return " ".join(["0", *(f"{value / SIDE:.6f}" for value in points)])


def scenes(folder: Path, count: int) -> None:
    """Bright rectangles on black, each within one cell, with outlines and keypoints (the cell's) as COCO has them."""
    random = np.random.default_rng(0)
    (folder / "val").mkdir()
    (folder / "boxes").mkdir()
    images, annotations = [], []
    for number in range(count):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        for cell in random.choice(32, 3, replace=False).tolist():
            y, x = (cell // 4) * CELL[0], (cell % 4) * CELL[1]
            points = [x, y, 2, x + CELL[1] / 2, y + CELL[0] / 2, 1]
            height, width = int(random.integers(2, 5)), int(random.integers(3, 9))
            top, left = y + int(random.integers(0, 5 - height)), x + int(random.integers(0, 9 - width))
            pixels[top : top + height, left : left + width] = random.integers(200, 256)
            right, bottom = left + width, top + height
            line = [left, top, right, top, right, bottom, left, bottom]
            item = {"id": len(annotations), "image_id": number, "category_id": 1, "iscrowd": 0}
            item |= {"bbox": [left, top, width, height], "area": width * height, "segmentation": [line]}
            item |= {"keypoints": points, "num_keypoints": 2}
            annotations.append(item)
        lines = [cell_line(item["keypoints"][:2]) for item in annotations if item["image_id"] == number]
        (folder / "boxes" / f"{number:03}.txt").write_text("\n".join(lines))
        Image.fromarray(pixels).save(folder / "val" / f"{number:03}.png")
        images.append({"id": number, "file_name": f"{number:03}.png", "width": SIDE, "height": SIDE})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "plate"}]}
    (folder / "labels.json").write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["instances", "keypoints", "rotated"])
def test_objects_with_shapes_ship(tmp_path: Path, edgeship: Edgeship, task: str) -> None:
    network(tmp_path / "model.onnx", task)
    scenes(tmp_path, 60)
    labels = "boxes" if task == "rotated" else "labels.json"
    (tmp_path / "edgeship.toml").write_text(CONFIG.replace("TASK", task).replace("LABELS", labels))
    done = edgeship("ship", tmp_path / "edgeship.toml", "--json", timeout=300)
    assert done.code == 0, done.out + done.err
    found = done.json
    assert found["reference"]["metrics"]["map"] == pytest.approx(1.0, abs=1e-9)
    rules = {rule["name"] for judged in found["decisions"][0]["judged"] for rule in judged["rules"]}
    assert "max_drop.map" in rules
    answered, promised = of_bundle(tmp_path / "edgeship.toml", tmp_path / "edgeship-out" / "bundle")
    assert answered == pytest.approx(promised, abs=1e-6)
    ran = edgeship("run", tmp_path / "edgeship-out" / "bundle", tmp_path / "val" / "000.png", "--json")
    assert ran.code == 0, ran.err
    boxes = ran.json["frames"][0]["boxes"]
    content = json.loads((tmp_path / "labels.json").read_text())
    if task == "instances":
        bright = np.asarray(Image.open(tmp_path / "val" / "000.png"))[:, :, 0] > 0
        mask = np.zeros(SIDE * SIDE, bool)
        for box in boxes:
            runs = box["mask"]["counts"]
            mask |= np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        assert np.array_equal(mask.reshape(SIDE, SIDE).T, bright)
        content["annotations"][5]["segmentation"] = [[1, 1, 4, 4]]
        wanted = "labels.json: annotation 5 has a polygon of 4 numbers"
    elif task == "rotated":
        labelled = {tuple(item["keypoints"][:2]) for item in content["annotations"] if item["image_id"] == 0}
        assert {tuple(np.min(box["corners"], axis=0).round(3)) for box in boxes} == labelled
        (tmp_path / "boxes" / "005.txt").write_text("0 0.1 0.1 0.5 0.5 0.5 0.1")
        wanted = "005.txt, line 1: 7 numbers"
    else:
        labelled = {tuple(item["keypoints"][:2]) for item in content["annotations"] if item["image_id"] == 0}
        assert {tuple(box["keypoints"][0][:2]) for box in boxes} == labelled
        content["annotations"][5]["keypoints"][0] = 40
        wanted = "labels.json: annotation 5 has a keypoint at (40, "
    (tmp_path / "labels.json").write_text(json.dumps(content))
    refused = edgeship("check", tmp_path / "edgeship.toml")
    assert refused.code == 2
    assert wanted in " ".join(refused.err.split())
