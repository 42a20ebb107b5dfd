"""Whole frames, paced frames and starts, measured on a real engine with real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny_project
from edgeship import engines
from edgeship.config import Batch, Benchmark, Evaluation, Preprocess, Target
from edgeship.engines import BuildRequest, OpenOptions
from edgeship.errors import EngineError
from edgeship.results import Artifact, Candidate, FrameTimes, TrialSpec, trial_folder, write
from edgeship.trial.frame import FrameAsk, frame_times
from edgeship.trial.starts import starts

STEPS = Preprocess(fit="stretch", std=(255.0, 255.0, 255.0))
QUICK = Benchmark(warmup_s=0.01, min_s=0.01, max_s=0.2, min_samples=20, precision=0.9)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    tiny_project.project(folder, each=4)
    target = Target(batch=Batch(min=1, opt=1, max=4))
    built = engines.get("onnxruntime").build(
        BuildRequest(folder / "model.onnx", folder / "engine.onnx", "fp32", target)
    )
    spec = TrialSpec(
        candidate=Candidate(name="fp32", precision="fp32"),
        target=target,
        model=Artifact.of(folder / "model.onnx", folder),
        benchmark=QUICK,
    )
    trial_folder.write_spec(spec, folder)
    write(built, folder / trial_folder.BUILD)
    return folder


def times(folder: Path, out: Path, **changes: object) -> FrameTimes:
    evaluation = Evaluation(images=folder / "val", classes=tiny_project.NAMES)
    ask = FrameAsk(evaluation, STEPS, QUICK, **changes)  # type: ignore[arg-type]
    with engines.get("onnxruntime").open(folder / "engine.onnx", OpenOptions(threads=1)) as runner:
        return frame_times(runner, ask, out)


def test_the_parts_of_a_frame_are_the_whole_frame(project: Path, tmp_path: Path) -> None:
    found = times(project, tmp_path)
    assert found.from_files and found.pictures == 12
    assert list(found.parts_ms) == ["image", "preprocess", "infer", "postprocess"]
    with np.load(tmp_path / trial_folder.FRAME_SAMPLES) as stored:
        parts = sum(stored[f"{name}_ms"] for name in found.parts_ms)
        np.testing.assert_allclose(parts, stored["total_ms"])
        assert len(stored["total_ms"]) == found.total_ms.samples >= 20
        assert (stored["image_ms"] > 0).all() and (stored["infer_ms"] > 0).all()


def test_a_pace_that_cannot_be_kept_is_missed_by_every_frame(project: Path, tmp_path: Path) -> None:
    found = times(project, tmp_path, fps=1e6)
    assert found.paced == 459
    assert found.missed == found.paced
    with np.load(tmp_path / trial_folder.FRAME_SAMPLES) as stored:
        assert np.all(np.diff(stored["paced_ms"]) > 0), "frames that wait are later and later"


def test_frames_come_when_they_are_due(project: Path, tmp_path: Path) -> None:
    found = times(project, tmp_path, fps=100.0)
    assert found.paced == 100, "max_s bounds the paced run"
    with np.load(tmp_path / trial_folder.FRAME_SAMPLES) as stored:
        assert stored["paced_ms"].min() >= found.total_ms.min * 0.2
        assert found.missed == int((stored["paced_ms"] > 10.0).sum())


def test_the_cameras_of_one_instant_are_one_frame(project: Path, tmp_path: Path) -> None:
    assert times(project, tmp_path, batch=4).batch == 4


@pytest.mark.slow
def test_a_start_is_a_fresh_process(project: Path) -> None:
    found = starts(project)
    assert len(found.cold_ms) == len(found.warm_ms) == 3
    assert min(found.cold_ms) > 1, "the engine's library is loaded anew"
    engine = project / "engine.onnx"
    whole = engine.read_bytes()
    engine.write_bytes(b"broken")
    with pytest.raises(EngineError, match="fresh process could not load"):
        starts(project)
    engine.write_bytes(whole)
