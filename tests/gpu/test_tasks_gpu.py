"""Several tasks, several inputs and memory through ship on CUDA: the figures of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import edgeship
import recurrent_detector
import several_inputs
import two_heads
from edgeship import pipeline
from edgeship.config_file import load
from edgeship.decide.finished_run import FinishedRun


def shipped(folder: Path, project: Callable[[Path], Path], device: str) -> FinishedRun:
    """FP32 alone, on one device."""
    path = project(folder)
    text = path.read_text().replace('precisions = ["fp32", "int8"]', 'precisions = ["fp32"]')
    table = f'[target]\ndevice = "{device}"\n'
    known = "[target]\n" if "[target]\n" in text else "[candidates]\n"
    path.write_text(text.replace(known, table if known == "[target]\n" else f"{table}{known}"))
    return pipeline.ship(load(path), folder / "run")


@pytest.mark.parametrize("project", [two_heads.project, several_inputs.project, recurrent_detector.project])
def test_the_figures_are_those_of_the_cpu(tmp_path: Path, project: Callable[[Path], Path]) -> None:
    here = shipped(tmp_path / "cpu", project, "cpu").result
    there = shipped(tmp_path / "cuda", project, "cuda:0").result
    assert there.verdict == here.verdict == "SHIP"
    assert there.trials[0].device == "cuda:0"
    assert there.trials[0].metrics == pytest.approx(here.trials[0].metrics, abs=1e-6)


def test_the_vehicle_remembers_on_cuda_until_it_is_reset(tmp_path: Path) -> None:
    run = shipped(tmp_path, recurrent_detector.project, "cuda:0")
    with edgeship.load(run.folder / "bundle") as model:
        frames = [tmp_path / "val" / "drive0" / f"{number}.png" for number in range(3)]
        assert [len(model(frame).above(0.5).boxes) for frame in frames] == [1, 1, 1]  # type: ignore[union-attr]
        model.reset()
        assert len(model(frames[2]).above(0.5).boxes) == 0  # type: ignore[union-attr]
