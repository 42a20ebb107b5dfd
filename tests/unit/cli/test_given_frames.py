"""Frames of a step command: what the config declares beside the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recurrent
import several_inputs
from edgeship.cli.quantize import _preprocess_facts
from edgeship.cli.settings import FramesAsked, given_frames
from edgeship.errors import DataError


def test_the_config_declares_the_other_inputs(tmp_path: Path) -> None:
    config = several_inputs.project(tmp_path)
    found = given_frames(tmp_path / "model.onnx", FramesAsked(None, None, [], config), 5, 2)
    batches = [feeds for _, feeds in found]
    assert [len(feeds["front"]) for feeds in batches] == [2, 2, 1]
    assert set(batches[0]) == {info.name for info in found.inputs}
    assert str(tmp_path) not in str(_preprocess_facts(found))
    with pytest.raises(DataError, match="declare the others"):
        list(given_frames(tmp_path / "model.onnx", FramesAsked(tmp_path / "calib/front", None, ["fit=stretch"]), 5, 2))


def test_the_config_declares_memory_and_the_command_line_names_other_frames(tmp_path: Path) -> None:
    config = recurrent.project(tmp_path)
    asked = FramesAsked(tmp_path / "val", None, [], config)
    rows = list(given_frames(tmp_path / "model.onnx", asked, 16, 8))
    names = [ids[0] for ids, _ in rows]
    assert [name.partition("/")[2] for name in names] == [f"{number:03}.png" for number in range(8)] * 2
    assert len({name.partition("/")[0] for name in names}) == 2
    assert np.allclose(rows[0][1]["mem_in"], 0.25)
    assert not np.allclose(rows[1][1]["mem_in"], 0.25)
    assert np.allclose(rows[8][1]["mem_in"], 0.25), "another sequence begins anew"


def test_frames_come_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frames were given"):
        given_frames(tmp_path / "model.onnx", FramesAsked(None, None, []), 5, 2)
