"""``edgeship ship`` with two devices over a real sshd: side by side, the local answer, tried again after an upgrade."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import onnxruntime
import pytest
from projects import Edgeship, Project, make_project

import processes
from chaos_support import at_work, remote_target
from edgeship import targets
from edgeship.config import Target
from edgeship.files import sha256_json
from sshd_support import Device

pytestmark = pytest.mark.slow
NAMES = ("first", "second")


def python_there(place: Path, packages: Path | None = None) -> Path:
    """The device's interpreter: this one, with ``packages`` before its own."""
    path = f"PYTHONPATH={packages}:$PYTHONPATH " if packages is not None else ""
    place.write_text(f'#!/bin/sh\n{path}exec {sys.executable} "$@"\n')
    place.chmod(0o755)
    return place


def upgraded(folder: Path) -> Path:
    """Packages with this onnxruntime under another version: what an upgrade of the device leaves."""
    ours, theirs = Path(onnxruntime.__file__).parent, folder / "packages" / "onnxruntime"
    theirs.mkdir(parents=True)
    for item in ours.iterdir():
        if item.name != "__init__.py":
            (theirs / item.name).symlink_to(item)
    (theirs / "__init__.py").write_text((ours / "__init__.py").read_text() + '\n__version__ = "99.1.0"\n')
    return theirs.parent


def two_targets(project: Project, host: Device, python: Path) -> Project:
    """The project with two devices, which are one host and two folders there."""
    text = project.config.read_text()
    head, rest = text.split("[target]\n")
    batch, rest = rest.split("\n", 1)
    tables = [
        f'[targets.{name}]\nhost = "device"\npython = "{python}"\n'
        f'remote_dir = "{host.folder / "trials-there"}-{name}"\n{batch}\n'
        for name in NAMES
    ]
    project.config.write_text(head + "".join(tables) + rest)
    return project


@pytest.fixture(scope="module")
def far(host: Device, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was shipped to both devices. Tests must not change it."""
    folder = tmp_path_factory.mktemp("far")
    project = two_targets(make_project(folder / "project"), host, python_there(folder / "python"))
    done = processes.edgeship("ship", project.config)
    assert done.returncode == 0, done.stderr
    return project


def test_a_device_says_what_its_trials_are_bound_to(host: Device, tmp_path: Path) -> None:
    there, here = remote_target(host), targets.machine(Target())
    assert sha256_json(targets.machine(there)) == sha256_json(here)
    assert here["identity"]["version"] == onnxruntime.__version__
    later = there.model_copy(update={"python": str(python_there(tmp_path / "python", upgraded(tmp_path)))})
    assert targets.machine(later)["identity"]["version"] == "99.1.0"
    absent = targets.machine(there.model_copy(update={"engine": "tensorrt", "via": "trtexec"}))
    assert absent["trtexec"].startswith("trtexec") and absent["installed"]["available"] is False


def test_two_devices_are_tried_side_by_side_and_give_the_local_answer(far: Project, shipped: Project) -> None:
    result, local = (json.loads((item.out / "result.json").read_text()) for item in (far, shipped))
    assert result["verdict"] == local["verdict"] == "SHIP"
    assert [item["target_name"] for item in result["decisions"]] == list(NAMES)
    assert {item["verdict"] for item in result["decisions"]} == {"SHIP"}
    here = {item["candidate"]: item for item in local["trials"]}
    assert len(result["trials"]) == 4
    for item in result["trials"]:
        assert item["metrics"] == here[item["candidate"]]["metrics"]
        assert item["drop"] == here[item["candidate"]]["drop"]
        assert item["outcome"] == here[item["candidate"]]["outcome"]
    page, summary = (far.out / "report.html").read_text(), (far.out / "summary.md").read_text()
    for name in NAMES:
        assert name in page and name in summary
        assert (far.out / f"bundle-{name}" / "manifest.json").is_file()
    spans = []
    for name in NAMES:
        (folder,) = (far.out / "stages").glob(f"trial-{name}-fp32-*")
        spans.append([(folder / file).stat().st_mtime for file in ("spec.json", "trial.json")])
    assert max(start for start, _ in spans) < min(end for _, end in spans)


def test_an_upgraded_device_tries_again_and_nothing_else_runs(
    far: Project, host: Device, tmp_path: Path, edgeship: Edgeship
) -> None:
    shutil.copytree(far.folder, tmp_path / "project")
    project = Project(tmp_path / "project")
    python = python_there(tmp_path / "python")
    text = project.config.read_text()
    project.config.write_text(text.replace(str(far.folder.parent / "python"), str(python), 1))
    assert edgeship("ship", project.config).code == 0
    assert edgeship("ship", project.config).code == 0
    assert all(project.stages().values())
    python_there(python, upgraded(tmp_path))
    assert edgeship("ship", project.config).code == 0
    rerun = {name for name, cached in project.stages().items() if not cached and name.startswith("trial:")}
    assert rerun == {"trial:first:fp32", "trial:first:int8"}


def test_ctrl_c_leaves_nothing_running_on_either_device(far: Project, host: Device, tmp_path: Path) -> None:
    shutil.copytree(far.folder, tmp_path / "project")
    project = Project(tmp_path / "project")
    project.change("max_s = 2.0", "max_s = 12.0")
    project.change("min_s = 0.1", "min_s = 8.0")
    with processes.start("ship", project.config) as process:
        deadline = time.monotonic() + 120
        while len(at_work(host)) < 4 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(at_work(host)) >= 4, "a supervisor and its worker for each device"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    deadline = time.monotonic() + 20
    while at_work(host) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert at_work(host) == []
