"""Frames as recordings and as the camera's raw dumps: through ship, the bundle, the runtime and ``edgeship run``."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from projects import Edgeship, code_of
from typer.testing import CliRunner

import edgeship as edgeship_package
import tiny_project
from edgeship import load as load_bundle
from edgeship import pipeline
from edgeship.cli import app
from edgeship.config_file import load
from edgeship.decide.finished_run import FinishedRun

pytestmark = pytest.mark.slow

COLOURS = ((220, 30, 30), (30, 220, 30), (30, 30, 220))
NV12 = {"red": (81, 90, 240), "green": (145, 54, 34), "blue": (41, 240, 110)}
"""Y, U and V of the primaries in BT.601, limited range."""
FRAMES = '[frames]\nformat = "nv12"\nwidth = 32\nheight = 24\nstride = 40\nmatrix = "bt601"\n'


def video(path: Path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            pixels = np.full((48, 64, 3), COLOURS[number // 2 % 3], np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def nv12(colour: str) -> bytes:
    y, u, v = NV12[colour]
    luma = np.full((24, 40), y, np.uint8)
    chroma = np.tile(np.array([u, v], np.uint8), (12, 20))
    return luma.tobytes() + chroma.tobytes()


@pytest.fixture(scope="module")
def of_videos(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("videos")
    tiny_project.save(folder / "model.onnx")
    video(folder / "calib.mp4", 12)
    (folder / "val").mkdir()
    for drive in ("monday", "tuesday"):
        video(folder / "val" / f"{drive}.mp4", 12)
    rows = [f"{d}/{n:06d}.png,{tiny_project.NAMES[n // 2 % 3]}" for d in ("monday", "tuesday") for n in range(0, 12, 2)]
    (folder / "labels.csv").write_text("\n".join(["image,label", *rows]))
    text = tiny_project.CONFIG.replace('images = "calib/"', 'images = "calib.mp4"')
    text = text.replace('images = "val/"', 'images = "val/"\nlabels = "labels.csv"')
    (folder / "edgeship.toml").write_text(text + "[frames]\nevery = 2\n")
    return pipeline.ship(load(folder), folder / "run")


@pytest.fixture(scope="module")
def of_dumps(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("dumps")
    tiny_project.save(folder / "model.onnx")
    for part in ("calib", "val"):
        for number in range(9):
            place = folder / part / tiny_project.NAMES[number % 3] / f"{number}.nv12"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(nv12(tiny_project.NAMES[number % 3]))
    text = tiny_project.CONFIG.replace("latency_p99_ms = 5000.0", "latency_p99_ms = 5000.0\nframe_p99_ms = 5000.0")
    (folder / "edgeship.toml").write_text(text + FRAMES)
    return pipeline.ship(load(folder), folder / "run")


def test_videos_are_calibrated_and_evaluated_on_frame_by_frame(of_videos: FinishedRun) -> None:
    assert of_videos.result.reference.metrics["top1"] == 1.0
    assert {item.candidate: item.metrics["top1"] for item in of_videos.result.trials} == {"fp32": 1.0, "int8": 1.0}
    kept = sorted(path.name for path in (of_videos.folder / "frames").iterdir())
    assert [name.partition("-")[0] for name in kept] == ["calib", "val"]


def test_run_takes_a_video(of_videos: FinishedRun) -> None:
    place = of_videos.folder.parent / "val" / "monday.mp4"
    command = ["run", str(of_videos.folder / "bundle"), str(place), "--every", "4", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    frames = json.loads(done.stdout)["frames"]
    assert [Path(item["image"]).name for item in frames] == [f"{number:06d}.png" for number in (0, 4, 8)]
    assert [item["top"][0][0] for item in frames] == ["red", "blue", "green"]


def test_the_vehicle_converts_a_dump_as_calibration_did(of_dumps: FinishedRun) -> None:
    assert of_dumps.result.reference.metrics["top1"] == 1.0
    frame = next(item for item in of_dumps.result.trials if item.candidate == "fp32")
    assert frame.metrics["top1"] == 1.0
    with load_bundle(of_dumps.folder / "bundle") as model:
        for colour in tiny_project.NAMES:
            content = nv12(colour)
            array = np.frombuffer(content, np.uint8).reshape(36, 40)
            path = next((of_dumps.folder.parent / "val" / colour).iterdir())
            answers = [model(item).top(3) for item in (content, array, path)]
            assert answers[0][0][0] == colour
            assert answers[0] == answers[1] == answers[2]


def test_the_code_of_the_page_predicts_from_a_buffer(of_dumps: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(of_dumps.folder)
    names = {"edgeship": edgeship_package, "np": np, "buffer": bytearray(nv12("green"))}
    exec(code_of("frames"), names)
    assert names["prediction"].top(1)[0][0] == "green"


def test_a_dump_of_another_size_is_told_before_anything_runs(of_dumps: FinishedRun, edgeship: Edgeship) -> None:
    folder = of_dumps.folder.parent
    done = edgeship("check", folder, "--set", "frames.height=26", "--out", folder / "other")
    assert done.code == 2
    told = " ".join(done.err.split())
    assert "holds 1,440 bytes, not 1,560 for nv12 of 32×26 at 40 bytes a row" in told
