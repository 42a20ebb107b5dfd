"""A fleet of tiny models that can be killed, for the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from edgeship.config import Benchmark, Target
from edgeship.fleet.config import Fleet
from edgeship.fleet.started import scheduler
from edgeship.results import Artifact, Candidate, TrialSpec, trial_folder
from edgeship.targets.cluster import Cluster, connected
from processes import edgeship_line
from tiny_project import project, save

QUIET = subprocess.DEVNULL
ELSEWHERE = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
"""Runs a command as on another host: what tells hosts apart is another file."""


def trial(target: Target, folder: Path, max_s: float = 0.2) -> Path:
    """A trial of the tiny model: built and timed, for at least that long."""
    folder.mkdir(parents=True)
    save(folder / "model.onnx")
    np.savez(folder / "frames.npz", images=np.zeros((1, 3, 16, 16), np.float32))
    spec = TrialSpec(
        candidate=Candidate(name="fp32", precision="fp32"), target_name="x", target=target,
        model=Artifact.of(folder / "model.onnx", folder), frames=Artifact.of(folder / "frames.npz", folder),
        benchmark=Benchmark(warmup_s=0.05, min_s=max_s, max_s=max_s + 0.1, min_samples=10),
    )  # fmt: skip
    trial_folder.write_spec(spec, folder)
    return folder


def models(root: Path, *names: str, trial_s: float = 0.5) -> None:
    """Projects of the tiny model below ``root``, whose single trial is timed for about ``trial_s`` seconds."""
    for name in names:
        config = project(root / name, each=8)
        text = config.read_text().replace('["fp32", "int8"]', '["fp32"]')
        text = text.replace("min_s = 0.1\nmax_s = 0.5", f"min_s = {trial_s}\nmax_s = {trial_s + 0.5}")
        config.write_text(text)


def fleet_file(root: Path, matrix: dict[str, list[str]], devices: tuple[str, ...], scheduler: str = "") -> Path:
    """A fleet file of the models below ``root``; each device has the label ``cpu`` beside its name."""
    lines = ["[models]", *(f'{name} = "{name}"' for name in matrix)]
    lines += [f'[devices.{name}]\nlabels = ["cpu"]\ntarget = {{ threads = 1 }}' for name in devices]
    lines += ["[matrix]", *(f"{name} = {labels}" for name, labels in matrix.items())]
    lines += [f'[scheduler]\naddress = "{scheduler}"'] if scheduler else []
    file = root / "fleet.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def start(file: Path) -> subprocess.Popen[bytes]:
    """``edgeship fleet`` in a process of its own, that a signal reaches alone."""
    command = edgeship_line("fleet", file, "--json")
    with (file.parent / "fleet.out").open("w") as out, (file.parent / "fleet.err").open("w") as err:
        return subprocess.Popen(command, stdin=QUIET, stdout=out, stderr=err, start_new_session=True)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def start_scheduler(port: int) -> subprocess.Popen[bytes]:
    """Dask's own scheduler on a loopback port."""
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dashboard-address", "127.0.0.1:0", "--no-jupyter"]
    return subprocess.Popen(command, stdin=QUIET, stdout=QUIET, stderr=QUIET, start_new_session=True)


def processes(folder: Path, kind: str = "") -> list[int]:
    """Processes whose command names a folder, and ``kind`` as an argument or a module; the youngest last."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = place.read_bytes().decode(errors="replace").split("\0")
            if any(word.startswith(str(folder)) for word in words) and (not kind or kind in words):
                found.append(int(place.parent.name))
    return sorted(set(found) - {os.getpid()})


def wait_until(there: Callable[[], object], limit_s: float = 120.0) -> bool:
    """Whether something came true within a time that only a broken run needs."""
    deadline = time.monotonic() + limit_s
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def far_cluster(folder: Path) -> Iterator[tuple[Cluster, subprocess.Popen[bytes]]]:
    """A cluster that is connected, whose one worker ``far`` takes itself for another host, and that worker's process.

    It computes as this machine does, and keeps its files in the folder's ``far``.
    """
    boot = folder / "boot"
    boot.write_text("00000000-0000-0000-0000-000000000001\n")
    elsewhere = ["unshare", "--map-root-user", "--mount", "sh", "-c", ELSEWHERE, "sh", str(boot)]
    with scheduler(Fleet(models={}, matrix={}, devices={})) as access, connected(Cluster(access)) as opened:
        command = edgeship_line("worker", access.address, "--name", "far", "--base", folder / "far")
        command += ["--ca", str(access.ca), "--cert", str(access.cert), "--key", str(access.key)]
        there = subprocess.Popen([*elsewhere, *command], stdin=QUIET, stdout=QUIET, stderr=QUIET)
        try:
            assert wait_until(lambda: "far" in opened.workers())
            yield opened, there
        finally:
            there.kill()
            there.wait()
