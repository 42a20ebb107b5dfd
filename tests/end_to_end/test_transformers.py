"""DETR, RT-DETR and SegFormer of transformers from their configs, random weights: the path, not the accuracy."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples_support import EXAMPLES, install_requirements
from PIL import Image
from projects import Edgeship, code_of

from edgeship import load

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "transformers_models"
PICTURES = EXAMPLES / "segmentation"
NAMES = ("background", "top", "trousers", "shoe", "bag")
CONFIG = """
[model]
source = "model:{network}"
[model.inputs.pixel_values]
shape = ["batch", 3, 96, 96]
[preprocess]
fit   = "stretch"
color = "rgb"
mean  = [123.675, 116.28, 103.53]
std   = [58.395, 57.12, 57.375]
[calibration]
images = "calib/"
count  = 16
method = "minmax"
[evaluation]
task    = "{task}"
images  = "val/"
labels  = "{labels}"
classes = ["background", "top", "trousers", "shoe", "bag"]
decoder = "{decoder}"
[targets.cpu]
engine = "onnxruntime"
[targets.card]
engine = "tensorrt-rtx"
device = "cuda:0"
compute_capability = ["8.9"]
[candidates]
precisions = ["fp32", "int8"]
reduced_range = false
[benchmark]
warmup_s = 0.05
min_s = 0.1
max_s = 5.0
min_samples = 20
precision = 0.95
[gate]
latency_p50_ms = 5000.0
"""


@dataclass(frozen=True)
class Case:
    """A network and how it is asked for."""

    network: str
    task: str
    labels: str
    decoder: str


CASES = (Case("detr", "detection", "val.json", "detr"), Case("segformer", "segmentation", "masks/", "logits"))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_requirements(HERE / "requirements.txt", tmp_path_factory.mktemp("transformers"))


def boxes_of_masks(pictures: list[Path]) -> dict[str, Any]:
    """COCO JSON with one box around each class in a picture's mask."""
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures):
        mask = np.asarray(Image.open(PICTURES / "masks" / picture.name))
        for kind in np.unique(mask[mask > 0]).tolist():
            rows, columns = np.nonzero(mask == kind)
            x, y = int(columns.min()), int(rows.min())
            width, height = int(columns.max()) + 1 - x, int(rows.max()) + 1 - y
            row = {"id": len(annotations), "image_id": number, "category_id": kind, "iscrowd": 0}
            annotations.append(row | {"bbox": [x, y, width, height], "area": width * height})
    return {
        "images": [{"id": i, "file_name": path.name, "width": 96, "height": 96} for i, path in enumerate(pictures)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES)],
    }


def modules(folder: Path) -> None:
    """The networks, and the code of the how-to page that wraps them, as it stands there."""
    shutil.copyfile(HERE / "model.py", folder / "model.py")
    (folder / "recipe.py").write_text(code_of("hugging-face"))


def project(folder: Path, case: Case) -> Path:
    """A folder with the network, real pictures and their labels; returns its config."""
    for name in ("calib", "val", "masks"):
        (folder / name).mkdir(parents=True)
    pictures = sorted((PICTURES / "val").glob("*.png"))[:24]
    for picture in pictures:
        shutil.copyfile(picture, folder / "val" / picture.name)
        shutil.copyfile(PICTURES / "masks" / picture.name, folder / "masks" / picture.name)
    for frame in sorted((PICTURES / "calib").glob("*.png"))[:16]:
        shutil.copyfile(frame, folder / "calib" / frame.name)
    (folder / "val.json").write_text(json.dumps(boxes_of_masks(pictures)))
    modules(folder)
    (folder / "edgeship.toml").write_text(CONFIG.format(**vars(case)))
    return folder / "edgeship.toml"


@pytest.mark.parametrize("case", CASES, ids=[case.network for case in CASES])
def test_exported_quantized_tried_and_built_for_rtx(
    tmp_path: Path, packages: Path, edgeship: Edgeship, case: Case
) -> None:
    config = project(tmp_path / "project", case)
    done = edgeship("ship", config, timeout=600, PYTHONPATH=str(packages))
    assert done.code == 3, done.err
    out = config.parent / "edgeship-out"
    stages = [json.loads(path.read_text()) for path in sorted(out.glob("stages/parity-*/*.json"))]
    assert any(stage.get("passed") for stage in stages)
    trials = [json.loads(path.read_text()) for path in out.glob("stages/trial-*/trial.json")]
    seen = {(trial["engine"], trial["candidate"]["name"]): trial for trial in trials}
    for precision in ("fp32", "int8"):
        tried, built = seen["onnxruntime", precision], seen["tensorrt-rtx", precision]
        assert tried["evaluation"]["images"] == 24
        assert tried["latency"]["wall_ms"]["p50"] > 0
        assert built["build"]["engine"]["size_bytes"] > 0
        assert built["latency"] is None
    assert seen["onnxruntime", "int8"]["audit"]["achieved"] > 0.5
    assert seen["tensorrt-rtx", "int8"]["audit"]["achieved"] > 0.5


SIZES = """
[inputs.orig_target_sizes]
from = "image_size"
[model.inputs.orig_target_sizes]
shape = ["batch", 2]
dtype = "int64"
[model.inputs.pixel_values]"""


def test_a_detector_that_is_told_the_size_of_the_image(tmp_path: Path, packages: Path, edgeship: Edgeship) -> None:
    config = project(tmp_path / "project", Case("deployed", "detection", "val.json", "nms-image"))
    text = config.read_text().replace("\n[model.inputs.pixel_values]", SIZES)
    before, _, after = text.partition("[targets.card]")
    text = (before + after[after.index("[candidates]") :]).replace('["fp32", "int8"]', '["fp32"]')
    config.write_text(text)
    done = edgeship("ship", config, timeout=600, PYTHONPATH=str(packages))
    assert done.code == 0, done.err
    picture = Image.open(PICTURES / "val" / sorted(path.name for path in (PICTURES / "val").glob("*.png"))[0])
    wide = np.asarray(picture.convert("RGB").resize((300, 160)))
    with load(config.parent / "edgeship-out" / "bundle") as model:
        found = model(wide)
        types = {info.name: info.dtype for info in model.inputs}
        seen = np.asarray(Image.fromarray(wide).resize((96, 96), Image.Resampling.BILINEAR))
        values = (seen - MEAN) / STD
        pixels = values.transpose(2, 0, 1)[None].astype(np.float32)
        raw = model.infer({"pixel_values": pixels, "orig_target_sizes": np.array([[1, 1]])})
    assert types == {"pixel_values": "float32", "orig_target_sizes": "int64"}
    whole = next(value for value in raw.values() if value.ndim == 3)[0] * np.tile([300, 160], 2)
    assert len(found.boxes) > 0
    for box in np.clip(whole, 0, np.tile([300, 160], 2)):
        apart = np.abs(found.boxes - box).max(axis=1)
        assert apart.min() < 0.05 or box[0] >= box[2] or box[1] >= box[3]


MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def test_rt_detr_exports_with_a_dynamic_batch_and_is_quantized_and_built_for_rtx(
    tmp_path: Path, packages: Path, edgeship: Edgeship
) -> None:
    """Its code takes the batch by len(). Its query selection is a TopK, and with random weights some tensors are zero
    on every frame and its answers in INT8 are noise: that is refused until it is allowed by name."""
    modules(tmp_path)
    here = {"cwd": tmp_path, "PYTHONPATH": str(packages)}
    settings = ("fit=stretch", "color=rgb", "mean=123.675,116.28,103.53", "std=58.395,57.12,57.375")
    preprocess = [part for setting in settings for part in ("-p", setting)]
    line = ("export", "model:rt_detr", "-i", "pixel_values=batch,3,96,96", "-o", "net.onnx", "--json")
    exported = edgeship(*line, **here)
    assert exported.code == 0, exported.err
    told = exported.json
    assert {item["shape"][0] for item in (*told["inputs"], *told["outputs"])} == {"batch"}
    assert any(note.startswith("traced by TorchDynamo") for note in told["notes"])
    for command in (
        ["slim", "net.onnx", "-o", "slim.onnx"],
        ["calibrate", "slim.onnx", "--images", PICTURES / "calib", *preprocess, "--count", 16, "--batch", 4],
        ["quantize", "slim.onnx", "--cache", "calib.cache", "--for", "tensorrt", "--precision", "int8", "-o", "q.onnx"],
    ):
        done = edgeship(*command, **here)
        if command[0] == "quantize":
            assert done.code == 2 and "no longer answers as FP32 does" in done.err, done.err
            done = edgeship(*command, "--allow-noise", "output_0", **here)
        assert done.code == 0, done.err
    built = edgeship(
        "build", "q.onnx", "--engine", "tensorrt-rtx", "--precision", "int8", "--compute-capability", "8.9", "--json",
        **here,
    )  # fmt: skip
    assert built.code == 0, built.err
    assert built.json["build"]["engine"]["size_bytes"] > 0
    assert built.json["audit"]["achieved"] >= 0.5
