"""A classifier and a detector with memory over sequences: through ship, the bundle and the vehicle."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import Edgeship

from edgeship import load as load_bundle
from edgeship import pipeline
from edgeship.config_file import load
from edgeship.data.npz import open_npz
from edgeship.decide.finished_run import FinishedRun
from edgeship.decode.predictions import Detection
from over_ssh import evaluated_on_both
from recurrent import project
from recurrent_detector import hidden
from recurrent_detector import project as detector
from sshd_support import Device

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("recurrent")
    return pipeline.ship(load(project(folder)), folder / "run")


def test_a_trial_runs_sequences(shipped: FinishedRun) -> None:
    """The labels are what the model answers with its memory."""
    assert shipped.result.verdict == "SHIP"
    assert shipped.result.reference.metrics["top1"] == 1.0
    assert all(item.metrics["top1"] > 0.8 for item in shipped.result.trials)
    known = open_npz(shipped.folder / "bundle" / "known.npz")
    assert known["in:mem_in"].shape == (1, 3)
    assert known["in:mem_in"].max() > 0.25, "the known step is not the first one"


def test_the_vehicle_remembers_until_it_is_reset(shipped: FinishedRun) -> None:
    rows = (Path(shipped.folder).parent / "labels.csv").read_text().splitlines()[1:]
    labels = dict(sorted(row.split(",") for row in rows))
    with load_bundle(shipped.folder / "bundle") as model:
        for _ in range(2):
            answers = {}
            for name in labels:
                if name.endswith("/000.png"):
                    model.reset()
                answers[name] = model(shipped.folder.parent / "val" / name).top(1)[0][0]
            assert answers == labels


def test_sequences_over_ssh_give_the_same_figures(shipped: FinishedRun, host: Device, tmp_path: Path) -> None:
    here, there = evaluated_on_both(shipped, host, tmp_path)
    assert there.metrics == here.metrics == {**here.metrics, "top1": 1.0}


def test_a_detector_remembers_what_a_frame_hides(tmp_path: Path, edgeship: Edgeship) -> None:
    """Frames are called 0.png to 11.png. In the order of their letters two hidden ones would follow one another, and
    the object be forgotten."""
    run = pipeline.ship(load(detector(tmp_path)), tmp_path / "run")
    assert run.result.verdict == "SHIP"
    assert run.result.reference.metrics["recall"] == 1.0
    assert run.result.reference.metrics["map50"] == pytest.approx(1.0)
    assert all(item.metrics["recall"] > 0.9 for item in run.result.trials)
    with load_bundle(run.folder / "bundle") as model:
        for number in range(12):
            found = model(tmp_path / "val" / "drive1" / f"{number}.png")
            assert isinstance(found, Detection)
            assert len(found.above(0.5).boxes) == 1, number
        for number in (1, 2):
            model.reset()
            found = model(tmp_path / "val" / "drive1" / f"{number}.png")
            assert isinstance(found, Detection)
            assert len(found.above(0.5).boxes) == (not hidden(number))
    val = tmp_path / "val"
    for first, boxes in (("drive1", 1), ("drive0", 0)):  # another folder is another sequence
        done = edgeship("run", run.folder / "bundle", val / first / "1.png", val / "drive1" / "2.png", "--json")
        assert done.code == 0, done.err
        assert [len(frame["boxes"]) for frame in done.json["frames"]] == [1, boxes]
