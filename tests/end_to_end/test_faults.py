"""Killed, crowded and mutilated: whatever happens to a run or a bundle, the next command ends well or says why."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import Edgeship, Project

import processes
from edgeship.bundle import MANIFEST, verify, zip_bundle
from edgeship.errors import EdgeshipError
from sshd_support import children

pytestmark = pytest.mark.slow

KILLS = 4


def start(project: Project, out: Path) -> subprocess.Popen[str]:
    """``edgeship ship`` in a session of its own."""
    return processes.start("ship", project.config, "--out", out, start_new_session=True)


def answer(out: Path) -> dict[str, Any]:
    """What must not depend on how often a run was killed."""
    result = json.loads((out / "result.json").read_text())
    metrics = {trial["candidate"]: trial["metrics"] for trial in result["trials"]}
    return {"verdict": result["verdict"], "metrics": metrics}


def test_sigkill_at_random_moments_ends_in_the_same_answer(shipped: Project, tmp_path: Path) -> None:
    wanted = answer(shipped.out)
    chance = random.Random(8)
    out = tmp_path / "out"
    struck = 0
    for _ in range(KILLS):
        process = start(shipped, out)
        try:
            process.communicate(timeout=chance.uniform(0.3, 6.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            struck += 1
    assert struck > 0
    process = start(shipped, out)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert answer(out) == wanted
    assert not list(out.glob("**/.tmp-*"))
    verify(out / "bundle")


def test_two_runs_in_one_folder_do_not_mix(shipped: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(shipped, out)
    deadline = time.monotonic() + 60
    while not ((out / "lock").is_file() and (out / "lock").read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    holder = (out / "lock").read_text()
    assert int(holder) in children(first.pid)
    second = start(shipped, out)
    _, said = second.communicate(timeout=100)
    assert second.returncode != 0
    assert f"process {holder}" in said
    assert said.count("error: ") == 1 and "Traceback" not in said
    _, errors = first.communicate(timeout=200)
    assert first.returncode == 0, errors
    assert answer(out) == answer(shipped.out)


def test_a_full_disk_stops_a_run_that_then_continues(project: Project, edgeship: Edgeship) -> None:
    """A file system of 3 MiB holds some of the stages; what was finished is there when there is space."""
    project.out.mkdir()
    kept = project.folder / "kept"
    script = (
        f"mount -t tmpfs -o size=3m tmpfs {project.out} && {sys.executable} -m edgeship ship {project.config}; "
        f"code=$?; cp -r {project.out} {kept}; exit $code"
    )
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 4, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(project.out)
    kept.rename(project.out)
    assert edgeship("ship", project.config).code == 0
    assert any(project.stages().values())


@pytest.fixture(scope="module")
def bundle(shipped: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to damage, and the same as a zip."""
    folder = tmp_path_factory.mktemp("fuzz") / "work" / "bundle"
    shutil.copytree(shipped.out / "bundle", folder)
    zip_bundle(folder, folder.parent / "good.zip")
    return folder


EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "put", "double", "end"]), st.floats(0, 1), st.binary(max_size=16)),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """Bytes after some edits at relative places."""
    raw = bytearray(data)
    for kind, place, extra in edits:
        at = int(place * max(0, len(raw) - 1))
        if kind == "flip" and raw:
            raw[at] ^= 1 + sum(extra) % 255
        elif kind == "cut":
            del raw[at : at + len(extra) + 1]
        elif kind == "put":
            raw[at:at] = extra
        elif kind == "double":
            raw[at:at] = raw[at : at + 64]
        elif kind == "end":
            del raw[at:]
    return bytes(raw)


def is_refused_or_whole(path: Path, good: Path) -> None:
    """Either one of our errors, at once, or a bundle whose every file is that of the good one."""
    start_s = time.perf_counter()
    try:
        manifest = verify(path)
    except EdgeshipError as error:
        assert str(error)
    else:
        assert manifest.files == verify(good).files
    assert time.perf_counter() - start_s < 5


QUIETLY = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@given(edits=EDITS)
@settings(max_examples=150, **QUIETLY)
def test_a_damaged_manifest_is_refused_or_names_the_same_files(
    bundle: Path, edits: list[tuple[str, float, bytes]]
) -> None:
    good = bundle.parent / "good.zip"
    text = (bundle / MANIFEST).read_bytes()
    before = set(bundle.parent.parent.rglob("*"))
    try:
        (bundle / MANIFEST).write_bytes(damaged(text, edits))
        is_refused_or_whole(bundle, good)
    finally:
        (bundle / MANIFEST).write_bytes(text)
    assert set(bundle.parent.parent.rglob("*")) == before


@given(edits=EDITS)
@settings(max_examples=150, **QUIETLY)
def test_a_damaged_zip_is_refused_or_unpacks_to_the_same_files(
    bundle: Path, edits: list[tuple[str, float, bytes]]
) -> None:
    good = bundle.parent / "good.zip"
    hurt = bundle.parent / "hurt.zip"
    hurt.write_bytes(damaged(good.read_bytes(), edits))
    before = set(bundle.parent.parent.rglob("*"))
    is_refused_or_whole(hurt, good)
    assert set(bundle.parent.parent.rglob("*")) == before


@given(edits=EDITS, which=st.integers(0, 10_000))
@settings(max_examples=100, **QUIETLY)
def test_a_damaged_file_is_refused(bundle: Path, edits: list[tuple[str, float, bytes]], which: int) -> None:
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != MANIFEST)
    victim = files[which % len(files)]
    data = victim.read_bytes()
    changed = damaged(data, edits)
    try:
        victim.write_bytes(changed)
        if changed == data:
            verify(bundle)
        else:
            with pytest.raises(EdgeshipError, match=victim.name):
                verify(bundle)
    finally:
        victim.write_bytes(data)
