"""Trials over a real sshd on loopback: the same answers as here, whatever is killed on the way."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chaos_support import KINDS, at_work, remote_target, round_of, start
from edgeship import targets
from edgeship.config import Benchmark, Target
from edgeship.errors import DataError, StorageError, TargetError, UserInputError
from edgeship.results import Trial, TrialSpec, read, write
from edgeship.targets import link, ssh
from edgeship.targets.ssh import run as run_over_ssh
from sshd_support import Device
from vehicle_support import Ground, ground, make_trial

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def here(made: Ground, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_trial(tmp_path_factory.mktemp("here") / "trial", made)
    targets.run(Target(), folder)
    return folder


def same(folder: Path, here: Path) -> None:
    """The device's trial says what the local one says."""
    a, b = read(Trial, folder / "trial.json"), read(Trial, here / "trial.json")
    assert a.failure is None and b.failure is None
    assert a.evaluation is not None and b.evaluation is not None
    assert a.evaluation.metrics == b.evaluation.metrics
    assert a.evaluation.images_sha256 == b.evaluation.images_sha256
    with np.load(folder / "outputs.npz") as x, np.load(here / "outputs.npz") as y:
        np.testing.assert_allclose(x["logits"], y["logits"], rtol=1e-5)


def soon(true: Callable[[], bool], patience_s: float = 20.0) -> bool:
    """Whether something comes true within a moment: a killed process leaves the table a little later."""
    deadline = time.monotonic() + patience_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def test_the_device_gives_the_local_answer_and_images_go_once(
    host: Device, made: Ground, here: Path, tmp_path: Path
) -> None:
    target = remote_target(host)
    for number in range(2):
        said: list[str] = []
        folder = make_trial(tmp_path / str(number), made, target=target)
        trial = targets.run(target, folder, lambda _done, _total, what, said=said: said.append(what))
        same(folder, here)
        assert trial.device == "cpu"
        assert any("sending" in what for what in said) == (number == 0)
        assert any("evaluate" in what for what in said)
    assert list((host.folder / "trials-there" / "trials").iterdir()) == []
    assert targets.run(target, folder) == trial


def test_a_trial_that_takes_too_long_is_stopped_on_the_device(host: Device, made: Ground, tmp_path: Path) -> None:
    target = remote_target(host)
    folder = make_trial(tmp_path / "trial", made, target=target)
    spec = read(TrialSpec, folder / "spec.json")
    write(spec.model_copy(update={"benchmark": Benchmark(warmup_s=60, min_s=60, max_s=90)}), folder / "spec.json")
    trial = targets.run(target, folder, timeout_s=4)
    assert trial.failure is not None and trial.failure.kind == "Timeout"
    assert "after 4 s" in trial.failure.message
    assert trial.build is not None or trial.failure.stage in ("start", "build"), "the steps that ended are told"
    assert list((host.folder / "trials-there" / "trials").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment_s", [0.6, 1.4])
def test_killed_anywhere_it_ends_in_the_same_answer(
    host: Device, made: Ground, here: Path, tmp_path: Path, kind: str, moment_s: float
) -> None:
    folder = make_trial(tmp_path / "trial", made, target=remote_target(host))
    said = round_of(host, folder, kind, moment_s)
    same(folder, here)
    assert sum("done" in line for line in said) <= 1 + (kind != "worker")
    assert soon(lambda: at_work(host) == [])


def test_ctrl_c_leaves_nothing_running_there(host: Device, made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made, target=remote_target(host))
    spec = read(TrialSpec, folder / "spec.json")
    long = Benchmark(warmup_s=0.1, min_s=60, max_s=90, min_samples=100)
    write(spec.model_copy(update={"benchmark": long}), folder / "spec.json")
    process = start(host, folder)
    assert process.stdout is not None
    for line in process.stdout:
        if "benchmark" in line:
            break
    assert at_work(host)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert soon(lambda: at_work(host) == [])
    assert not (folder / "trial.json").exists()


def test_stop_all_ends_a_waiting_thread_and_its_trial(host: Device, made: Ground, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    folder = make_trial(tmp_path / "trial", made, target=remote_target(host))
    spec = read(TrialSpec, folder / "spec.json")
    long = Benchmark(warmup_s=0.1, min_s=60, max_s=90, min_samples=100)
    write(spec.model_copy(update={"benchmark": long}), folder / "spec.json")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run_over_ssh, spec.target, folder)
        deadline = time.monotonic() + 60
        while not at_work(host) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert at_work(host)
        targets.stop_all()
        try:
            with pytest.raises(KeyboardInterrupt):
                waiting.result(60)
        finally:
            link.start_all()
    assert soon(lambda: at_work(host) == [])


def test_a_reboot_in_the_middle_is_waited_out(host: Device, made: Ground, here: Path, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made, target=remote_target(host))
    process = start(host, folder)
    assert process.stdout is not None
    for line in process.stdout:
        if "build" in line:
            break
    host.restart()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    same(folder, here)


@pytest.mark.alone
def test_a_long_trial_does_not_use_up_the_patience_with_the_device(
    host: Device, made: Ground, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(ssh, "PATIENCE_S", 3.0)
    folder = make_trial(tmp_path / "trial", made, target=remote_target(host))
    spec = read(TrialSpec, folder / "spec.json")
    longer = Benchmark(warmup_s=0.1, min_s=6, max_s=8, min_samples=100)
    write(spec.model_copy(update={"benchmark": longer}), folder / "spec.json")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run_over_ssh, spec.target, folder)
        assert soon(lambda: at_work(host) != [], 60.0)
        time.sleep(5)
        assert not waiting.done()
        host.restart()
        waiting.result(60)
    same(folder, here)


def serving(host: Device) -> list[int]:
    """Agents on the device."""
    mark = str(host.folder / "trials-there").encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"serve" in line and mark in line:
            found.append(int(path.parent.name))
    return found


def test_an_agent_that_is_killed_at_first_contact_is_started_again(
    host: Device, made: Ground, here: Path, tmp_path: Path
) -> None:
    link.close_all()
    assert soon(lambda: serving(host) == [])
    folder = make_trial(tmp_path / "trial", made, target=remote_target(host))
    process = start(host, folder)
    assert soon(lambda: serving(host) != [])
    for pid in serving(host):
        os.kill(pid, signal.SIGKILL)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "connection lost, trying again" in said
    same(folder, here)


def test_two_devices_side_by_side(host: Device, made: Ground, here: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    first = remote_target(host)
    second = first.model_copy(update={"remote_dir": str(host.folder / "other-there")})
    folders = [make_trial(tmp_path / str(n), made, target=target) for n, target in enumerate((first, second))]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(targets.run, (first, second), folders))
    for folder in folders:
        same(folder, here)


def test_what_the_device_lacks_is_one_command(host: Device, made: Ground, tmp_path: Path) -> None:
    bare = host.folder / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    target = remote_target(host).model_copy(update={"python": str(bare)})
    with pytest.raises(TargetError, match="has no edgeship") as caught:
        targets.run(target, make_trial(tmp_path / "a", made, target=target))
    assert caught.value.do is not None
    assert caught.value.do.startswith("ssh device ") and "-m pip install" in caught.value.do
    absent = target.model_copy(update={"python": "/nowhere/python3"})
    with pytest.raises(TargetError, match="has no /nowhere/python3"):
        targets.run(absent, make_trial(tmp_path / "b", made, target=absent))


def test_code_of_ones_own_that_the_device_lacks_is_one_sentence(host: Device, made: Ground, tmp_path: Path) -> None:
    target = remote_target(host)
    folder = make_trial(tmp_path / "trial", made, target=target)
    spec = read(TrialSpec, folder / "spec.json")
    assert spec.evaluation is not None
    own = spec.evaluation.model_copy(update={"task": "taskofours:score"})
    write(spec.model_copy(update={"evaluation": own}), folder / "spec.json")
    with pytest.raises(TargetError, match=r"needs the Python module taskofours, which .* on device does not") as caught:
        targets.run(target, folder)
    assert caught.value.do is not None and caught.value.do.startswith("scp -r taskofours.py device:")
    known = spec.evaluation.model_copy(update={"task": "json:loads"})
    write(spec.model_copy(update={"evaluation": known}), folder / "spec.json")
    with pytest.raises(DataError, match=r"on device: .*json:loads raised TypeError: loads\(\)"):
        targets.run(target, folder)


def test_an_unknown_host_key_or_host_is_refused(
    host: Device, made: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = host.config.read_text().replace("known_hosts", "no_known_hosts")
    (tmp_path / "config").write_text(text + "\nHost closed\n  HostName 127.0.0.1\n  Port 1\n")
    monkeypatch.setenv("EDGESHIP_SSH_CONFIG", str(tmp_path / "config"))
    target = remote_target(host).model_copy(update={"remote_dir": str(tmp_path / "there")})
    with pytest.raises(TargetError, match="verification failed"):
        targets.run(target, make_trial(tmp_path / "a", made, target=target))
    closed = target.model_copy(update={"host": "closed"})
    with pytest.raises(TargetError, match="cannot be reached"):
        targets.run(closed, make_trial(tmp_path / "b", made, target=closed))
    option = target.model_copy(update={"host": "-oProxyCommand=touch /tmp/x"})
    with pytest.raises(UserInputError, match=r"target\.host"):
        targets.run(option, make_trial(tmp_path / "c", made, target=option))


def test_a_folder_there_that_cannot_be_written(host: Device, made: Ground, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    target = remote_target(host).model_copy(update={"remote_dir": "/proc/edgeship"})
    with pytest.raises((StorageError, TargetError), match="device"):
        targets.run(target, make_trial(tmp_path / "a", made, target=target))
