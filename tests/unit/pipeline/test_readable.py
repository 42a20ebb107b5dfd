"""Images that cannot be read are told before anything long begins, whichever camera took them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship.config_file import load
from edgeship.errors import DataError
from edgeship.pipeline.readable import look_at_images, readable_key
from edgeship.pipeline.stages import Run
from several_inputs import project


def test_a_picture_of_another_camera_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    run = Run(load(project(tmp_path)), tmp_path / "run")
    whole = readable_key(run)
    looked = look_at_images(run, tmp_path).files
    assert looked["inputs.left.calibration"] == len(list((tmp_path / "calib" / "left").rglob("*.png")))
    assert looked["inputs.left.evaluation"] == looked["evaluation.images"] == 24
    picture = tmp_path / "val" / "left" / "003.png"
    picture.write_bytes(picture.read_bytes()[:40])
    assert readable_key(Run(run.config, run.folder)) != whole
    with pytest.raises(DataError, match=r"inputs\.left\.evaluation: 1 of 24 images cannot be read: 003\.png"):
        look_at_images(run, tmp_path)
