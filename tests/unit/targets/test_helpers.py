"""Trials that an equal worker of another host runs ahead of need: the same to the bit as here, and never waited for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeship.config import Batch, Evaluation, Preprocess, Target
from edgeship.errors import QuantizeError
from edgeship.results import Artifact, Candidate, Trial, TrialSpec, trial_folder
from edgeship.results.trial_folder import OUTPUTS, RECORDS
from edgeship.targets import helpers, local
from edgeship.targets.cluster import Cluster
from edgeship.targets.helpers import Helpers, helpers_of, helping
from fleet_support import far_cluster, wait_until
from tiny_project import NAMES, project


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("ground"), each=4).parent


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[Cluster, subprocess.Popen[bytes], Path]]:
    with far_cluster(tmp_path) as (opened, there):
        yield opened, there, tmp_path / "far"


def lay(ground: Path, folder: Path, limit: int = 12) -> None:
    """A preview of the tiny model: evaluated on the first images, not timed."""
    shutil.copyfile(ground / "model.onnx", folder / "model.onnx")
    np.savez(folder / "frames.npz", images=np.linspace(0, 1, 768, dtype=np.float32).reshape(1, 3, 16, 16))
    spec = TrialSpec(
        candidate=Candidate(name="fp32", precision="fp32"), target_name="preview", target=Target(batch=Batch(max=8)),
        model=Artifact.of(folder / "model.onnx", folder), frames=Artifact.of(folder / "frames.npz", folder),
        benchmark=None, evaluation=Evaluation(task="classification", images=ground / "val", classes=NAMES, limit=limit),
        preprocess=Preprocess(fit="stretch", std=(255.0,)),
    )  # fmt: skip
    trial_folder.write_spec(spec, folder)


def laid(ground: Path, folder: Path) -> Path:
    folder.mkdir()
    lay(ground, folder)
    return folder


def same(folder: Path, trial: Trial, other: Path, wanted: Trial) -> bool:
    """Whether two trials answered alike, byte by byte."""
    assert trial.evaluation is not None and wanted.evaluation is not None
    alike = all((folder / name).read_bytes() == (other / name).read_bytes() for name in (OUTPUTS, RECORDS))
    return alike and trial.evaluation.metrics == wanted.evaluation.metrics


def refuse(_folder: Path) -> None:
    raise QuantizeError("it loses too much")


def test_without_a_fleet_or_with_workers_of_this_host_nothing_is_begun_ahead():
    with helping() as found:
        assert found is None


def test_what_nobody_has_begun_is_tried_here(ground, tmp_path):
    folder = laid(ground, tmp_path / "trial")
    made = Helpers(Cluster(None), [], tmp_path, lambda *_: None)  # type: ignore[arg-type]
    made.begin("one", lambda place: lay(ground, place))
    assert made.run("one", folder).failure is None
    assert made.taken_over == []
    made.end()


@pytest.mark.slow
def test_a_worker_of_another_host_runs_trials_ahead_and_keeps_nothing(fleet, ground, tmp_path):
    opened, there, base = fleet
    alone = laid(ground, tmp_path / "alone")
    wanted = local.run(alone)
    assert [seen.name for seen in helpers_of(opened)] == ["far"]
    with helping() as found:
        assert found is not None
        for name, write in (("refused", refuse), ("one", None), ("two", None), ("other", None)):
            limit = 8 if name == "other" else 12
            found.begin(name, write or (lambda place, limit=limit: lay(ground, place, limit)))
        assert wait_until(lambda: found._jobs["one"].begun.is_set())
        folder = laid(ground, tmp_path / "one")
        assert same(folder, found.run("one", folder), alone, wanted)
        assert found.taken_over == ["one"]
        assert trial_folder.read_spec(folder) == trial_folder.read_spec(alone)
        assert wait_until(lambda: found._jobs["other"].ended.is_set())
        folder = laid(ground, tmp_path / "other")
        assert same(folder, found.run("other", folder), alone, wanted), "what was asked there is not what is asked here"
        assert found.taken_over == ["one"]
    assert list((base / "trials").iterdir()) == []

    told: list[str] = []
    with helping(lambda _done, _total, what: told.append(what)) as found:
        assert found is not None
        found.begin("one", lambda place: lay(ground, place))
        assert wait_until(lambda: found._jobs["one"].begun.is_set())
        there.kill()
        folder = laid(ground, tmp_path / "lost")
        trial = found.run("one", folder)
        assert same(folder, trial, alone, wanted), "it is tried here"
    assert found.taken_over == ["one"] or any("far is left out of the previews" in what for what in told)
    assert helpers.current() is opened
