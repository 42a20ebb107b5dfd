"""``hand-over`` through the command line: what another runtime cannot express is refused with the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeship.bundle import Contents, write
from edgeship.trial.run import run_trial
from processes import Ended, edgeship
from vehicle_support import decision, ground, make_trial

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 16 × 16 pictures that begins with a convolution."""
    folder = tmp_path_factory.mktemp("bundle")
    run_trial(make_trial(folder / "trial", ground(folder / "ground")))
    write(Contents(folder / "trial", decision(), reference=folder / "trial"), folder / "bundle")
    return folder / "bundle"


def handed_over(bundle: Path, folder: Path, kind: str, **changes: Any) -> Ended:
    """The command on a copy whose manifest says something else; nothing signs this one."""
    shutil.copytree(bundle, folder / "copy")
    path = folder / "copy" / "manifest.json"
    manifest = json.loads(path.read_text())
    for key, value in changes.items():
        kept = manifest[key]
        manifest[key] = kept | value if isinstance(kept, dict) and value else value
    path.write_text(json.dumps(manifest))
    return edgeship("hand-over", folder / "copy", "--for", kind, "--out", folder / "out")


LOOSE = [{"name": "images", "shape": ["batch", 3, "height", "width"], "dtype": "float32"}]
TWO = [{"name": name, "shape": ["batch", 3], "dtype": "float32"} for name in ("logits", "other")]


@pytest.mark.parametrize(
    ("kind", "changes", "said", "remedy"),
    [
        ("cpp", {"preprocess": None}, "holds no preprocessing", "add [preprocess] to edgeship.toml and ship again"),
        ("deepstream", {"preprocess": {"fit": "center-crop"}}, "Gst-nvinfer crops nothing", "ship with one of these"),
        ("triton", {"inputs": LOOSE, "profiles": {}}, "dynamic axes height, width, and no profile", "ship again"),
        ("deepstream", {"outputs": TWO}, "2 outputs could carry the prediction", "name it in evaluation.output"),
        ("tflite", {}, "'tflite' is not a runtime", "triton | deepstream | ros2 | cpp"),
    ],
)
def test_what_a_runtime_cannot_express_is_refused(
    bundle: Path, tmp_path: Path, kind: str, changes: dict[str, Any], said: str, remedy: str
) -> None:
    done = handed_over(bundle, tmp_path, kind, **changes)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1
    text = " ".join(done.stderr.split())
    assert said in text and remedy in text
    assert not (tmp_path / "out").exists()


def test_a_std_for_each_channel_is_folded_for_deepstream(bundle: Path, tmp_path: Path) -> None:
    done = handed_over(bundle, tmp_path, "deepstream", preprocess={"std": [58.4, 40.0, 90.0], "pad_value": 0.0})
    assert done.returncode == 0, done.stderr
    assert "is folded into conv of model.onnx" in " ".join(done.stdout.split())
    assert (tmp_path / "out" / "model.onnx").read_bytes() != (bundle / "model.onnx").read_bytes()


def test_a_device_that_nobody_knows_is_refused(bundle: Path, tmp_path: Path) -> None:
    model = bundle / "model.onnx"
    done = edgeship("build", model, "--engine", "openvino", "--device", "tpu", "--out", tmp_path / "engine.onnx")
    assert done.returncode == 2, done.stderr
    assert 'device: is not a device; use "cpu", or "cuda:0"' in " ".join(done.stderr.split())
    assert "found 'tpu'" in done.stderr
    assert not (tmp_path / "engine.onnx").exists()
