"""Calibration from a config: what is checked on evaluation sets of every kind, and a cache from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgeship.config import Target
from edgeship.config_file import load
from edgeship.data.reference import importable
from edgeship.errors import CacheError
from edgeship.pipeline import prepare
from edgeship.pipeline.calibration import CACHE, CALIBRATE, calibrate_from_config, calibrate_key
from edgeship.pipeline.graphs import make_graph
from edgeship.pipeline.stages import Run
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.prepare import calibration_cache
from edgeship.prepare.graph import inputs_of, load_onnx
from edgeship.results import Artifact, Calibrated, Candidate, Slimmed
from vehicle_support import CLASSES, network, photographs

PREPROCESS = '[preprocess]\nfit = "stretch"\nmean = [127.0]\nstd = [128.0]\n'
INT8 = Candidate(name="int8", precision="int8")
ON_THIS_CPU = TargetTrials("default", Target())


def run_in(folder: Path, text: str, batch: int | None = None) -> Run:
    """A run whose slim and frames stages are done; ``batch`` fixes the graph's batch axis."""
    (folder / "edgeship.toml").write_text('[model]\nsource = "model:build"\n' + PREPROCESS + text)
    run = Run(load(folder / "edgeship.toml"), folder / "out")
    slim = folder / "slim"
    slim.mkdir(exist_ok=True)
    model = network(slim / "model.onnx")
    if batch is not None:
        proto = onnx.load(model)
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        onnx.save(proto, model)
    run.results["slim"] = Slimmed(
        model=Artifact.of(model, slim), inputs=inputs_of(load_onnx(model)), outputs=(), nodes_before=1, nodes_after=1
    )
    known = folder / "frames"
    known.mkdir(exist_ok=True)
    run.folders |= {"slim": slim, "frames": known}
    run.results["frames"] = prepare.frames_work(run, known)
    return run


def calibrated(run: Run, folder: Path) -> Calibrated:
    folder.mkdir()
    run.results["calibrate"] = found = calibrate_from_config(run, folder)
    run.folders["calibrate"] = folder
    return found


def pixels(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All the pictures of a folder per class, and their labels."""
    paths = sorted(folder.rglob("*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths]), np.array(
        [CLASSES.index(path.parent.name) for path in paths]
    )


def clipped(run: Run, found: Calibrated) -> list[float | None]:
    ranges = calibration_cache.load(run.path(CALIBRATE, CACHE), calibration_cache.Expected()).ranges
    assert len(ranges) == found.tensors
    return [entry.clipped for entry in ranges.values()]


def test_an_evaluation_set_in_a_folder(tmp_path: Path) -> None:
    photographs(tmp_path / "val")
    photographs(tmp_path / "calib")
    text = '[calibration]\nimages = "calib/"\nmethod = "minmax"\n[evaluation]\nimages = "val/"\nlimit = 9\n'
    run = run_in(tmp_path, text)
    found = calibrated(run, tmp_path / "made")
    assert len(found.overlap) == len(list((tmp_path / "val").rglob("*.png"))), "however many of them are evaluated"
    assert found.unchecked == ()
    assert all(share is not None and share < 0.001 for share in clipped(run, found))


@pytest.mark.parametrize("kind", ["npz", "module:callable"])
def test_an_evaluation_set_of_arrays_is_checked_too(tmp_path: Path, kind: str) -> None:
    images, labels = pixels(photographs(tmp_path / "val"))
    bright = np.minimum(images.astype(int) * 2, 255).astype(np.uint8)
    bright[4] = images[7]
    np.savez(tmp_path / "calib.npz", images=images // 2 + np.uint8(40))
    with np.load(tmp_path / "calib.npz") as stored:
        mixed = stored["images"].copy()
    mixed[2] = images[7]
    np.savez(tmp_path / "calib.npz", images=mixed)
    np.savez(tmp_path / "val.npz", images=bright, labels=labels, classes=np.array(CLASSES))
    module = f"labelled_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(
        "import pathlib\nimport numpy as np\n\n\ndef pairs():\n"
        "    stored = np.load(pathlib.Path(__file__).with_name('val.npz'))\n"
        "    return list(zip(stored['images'], [int(label) for label in stored['labels']]))\n"
    )
    source = "val.npz" if kind == "npz" else f"{module}:pairs"
    text = f'[calibration]\nnpz = "calib.npz"\nmethod = "minmax"\n[evaluation]\nimages = "{source}"\n'
    with importable(tmp_path):
        run = run_in(tmp_path, text)
        found = calibrated(run, tmp_path / "made")
    assert found.overlap == ("calib.npz[2]",)
    assert found.unchecked == ()
    assert "images" in found.clipping, "the evaluation pictures are brighter"
    assert None not in clipped(run, found)


def test_files_and_arrays_are_not_recognized_and_that_is_said(tmp_path: Path) -> None:
    images, labels = pixels(photographs(tmp_path / "calib"))
    np.savez(tmp_path / "val.npz", images=images, labels=labels, classes=np.array(CLASSES))
    text = '[calibration]\nimages = "calib/"\nmethod = "minmax"\n[evaluation]\nimages = "val.npz"\n'
    run = run_in(tmp_path, text)
    found = calibrated(run, tmp_path / "made")
    assert found.overlap == ()
    assert "the calibration frames are files, the evaluation images pixels" in found.unchecked[0]
    assert None not in clipped(run, found)


@pytest.mark.parametrize(("count", "checked"), [(10, True), (3, False)])
def test_a_fixed_batch_takes_whole_batches_of_evaluation_images(tmp_path: Path, count: int, checked: bool) -> None:
    for image in sorted(photographs(tmp_path / "val").rglob("*.png"))[count:]:
        image.unlink()
    photographs(tmp_path / "calib")
    text = '[calibration]\nimages = "calib/"\ncount = 16\nmethod = "minmax"\n[evaluation]\nimages = "val/"\n'
    run = run_in(tmp_path, text, batch=4)
    found = calibrated(run, tmp_path / "made")
    assert (None not in clipped(run, found)) == checked
    said = () if checked else ("What clips on evaluation images was not checked: 3 are not a batch of 4.",)
    assert found.unchecked == said
    assert found.overlap


def test_no_evaluation_set_is_said(tmp_path: Path) -> None:
    photographs(tmp_path / "calib")
    found = calibrated(run_in(tmp_path, '[calibration]\nimages = "calib/"\nmethod = "mse"\n'), tmp_path / "made")
    assert "No evaluation images were given" in found.unchecked[0]


def test_neither_labels_nor_a_limit_ask_for_another_calibration(tmp_path: Path) -> None:
    """They say what is judged, and on how many images. Another picture among them is looked at for clipping."""
    photographs(tmp_path / "calib")
    photographs(tmp_path / "val")
    labels = tmp_path / "labels.csv"
    text = '[calibration]\nimages = "calib/"\n[evaluation]\nimages = "val/"\nlabels = "labels.csv"\n'
    labels.write_text("image,label\n")
    before = calibrate_key(run_in(tmp_path, text))
    labels.write_text("image,label\na.png,car\n")
    assert calibrate_key(run_in(tmp_path, text)) == before
    assert calibrate_key(run_in(tmp_path, text + "limit = 3\n")) == before
    next((tmp_path / "val").rglob("*.png")).unlink()
    assert calibrate_key(run_in(tmp_path, text)) != before


def test_a_cache_of_ones_own_serves_another_run(tmp_path: Path) -> None:
    """The cache, its ranges and its frames are taken over, and a graph can be made of them."""
    photographs(tmp_path / "calib")
    first = run_in(tmp_path, '[calibration]\nimages = "calib/"\nmethod = "entropy"\n')
    made = calibrated(first, tmp_path / "made")
    given = tmp_path / "given"
    given.mkdir()
    for of in (Path, calibration_cache.sidecar_path, calibration_cache.ranges_path, calibration_cache.samples_path):
        shutil.copyfile(of(tmp_path / "made" / CACHE), of(given / "mine.cache"))
    again = run_in(tmp_path, '[calibration]\nimages = "calib/"\ncache = "given/mine.cache"\n')
    found = calibrated(again, tmp_path / "taken")
    assert (found.method, found.frames, found.frames_sha256) == ("entropy", made.frames, made.frames_sha256)
    assert found.ranges.path == "calib.ranges.json"
    assert not found.trusted_cache
    (tmp_path / "int8").mkdir()
    graph = make_graph(again, tmp_path / "int8", INT8, ON_THIS_CPU)
    assert graph.quantized_nodes >= 2
    with pytest.raises(CacheError, match="method: made from another method"):
        text = '[calibration]\nimages = "calib/"\ncache = "given/mine.cache"\nmethod = "mse"\n'
        calibrated(run_in(tmp_path, text), tmp_path / "refused")


def test_a_plain_cache_is_taken_on_trust(tmp_path: Path) -> None:
    photographs(tmp_path / "calib")
    first = run_in(tmp_path, '[calibration]\nimages = "calib/"\nmethod = "entropy"\n')
    calibrated(first, tmp_path / "made")
    shutil.copyfile(tmp_path / "made" / CACHE, tmp_path / "plain.cache")
    text = '[calibration]\nimages = "calib/"\ncache = "plain.cache"\n'
    with pytest.raises(CacheError, match="has no binding"):
        calibrated(run_in(tmp_path, text), tmp_path / "refused")
    again = run_in(tmp_path, text + "trust_cache = true\n")
    found = calibrated(again, tmp_path / "taken")
    assert found.trusted_cache
    assert found.moved_p95 is None
    (tmp_path / "int8").mkdir()
    assert make_graph(again, tmp_path / "int8", INT8, ON_THIS_CPU).quantized_nodes >= 2
