"""A classifier with memory over sequences: through ship, the bundle and the vehicle."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeship
from edgeship import pipeline
from edgeship.config_file import load
from edgeship.data.npz import open_npz
from edgeship.decide.finished_run import FinishedRun
from recurrent import project

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
    with edgeship.load(shipped.folder / "bundle") as model:
        for _ in range(2):
            answers = {}
            for name in labels:
                if name.endswith("/000.png"):
                    model.reset()
                answers[name] = model(shipped.folder.parent / "val" / name).top(1)[0][0]
            assert answers == labels
