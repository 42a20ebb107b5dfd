"""Recordings in a config become folders of frames, grouped by recording."""

from __future__ import annotations

from pathlib import Path

from edgeship.config import Config
from edgeship.config_file import load
from edgeship.pipeline.streams import BY_STREAM, with_frames

TEXT = """
[model]
source = "model.onnx"
[preprocess]
fit = "stretch"
[frames]
format = "nv12"
width = 4
height = 2
every = 2
[calibration]
images = "calib.yuv"
[evaluation]
images = "val/"
[evaluation.one]
task = "segmentation"
[evaluation.two]
task = "detection"
"""


def project(folder: Path, frames: int = 4) -> Config:
    for name in ("calib.yuv", "val/monday.yuv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(12 * frames))
    (folder / "edgeship.toml").write_text(TEXT)
    return load(folder)


def test_every_place_of_images_becomes_a_folder_of_frames(tmp_path: Path) -> None:
    config = project(tmp_path)
    found = with_frames(config, tmp_path / "frames")
    assert found.calibration.images is not None
    assert found.evaluation.images is not None
    for place, stem in ((found.calibration.images, "calib"), (found.evaluation.images, "monday")):
        assert sorted(path.name for path in (place / stem).iterdir()) == ["000000.yuv", "000002.yuv"]
    assert {item.images for item in found.evaluation.tasks.values()} == {found.evaluation.images}
    assert {item.group for item in (found.evaluation, *found.evaluation.tasks.values())} == {BY_STREAM}


def test_frames_that_are_no_longer_used_are_removed(tmp_path: Path) -> None:
    first = with_frames(project(tmp_path), tmp_path / "frames").calibration.images
    second = with_frames(project(tmp_path, 6), tmp_path / "frames", tidy=True).calibration.images
    assert first is not None
    assert second is not None
    assert not first.exists()
    assert len(list((second / "calib").iterdir())) == 3


def test_a_config_of_images_stays_as_it_is(tmp_path: Path) -> None:
    config = project(tmp_path, 1)
    plain = config.model_copy(update={"calibration": config.calibration.model_copy(update={"images": None})})
    assert with_frames(plain, tmp_path / "frames") == plain
