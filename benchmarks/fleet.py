"""A fleet on this machine: its verdicts, what it costs, and how far Dask's scheduler carries it.

    python benchmarks/fleet.py verdicts              2 models on 3 workers over TLS, beside a ship of each
    python benchmarks/fleet.py overhead [--count 5]  one trial on a worker, beside the same trial here
    python benchmarks/fleet.py busy [--count 200]    trivial trials on 4 workers: how busy those are
    python benchmarks/fleet.py kills [--count 20]    a worker, the scheduler or the client, at random moments
    python benchmarks/fleet.py scheduler             50 models x 20 devices x 12 trials, all at once, and 20 large files
    python benchmarks/fleet.py gpus [--count 1000]   two GPUs of this host beside one: evaluation, ranking, clocks
    python benchmarks/fleet.py history               appending to a history of 100,000 rules

Models are tiny (one convolution), each inference has one thread. ``busy`` counts a worker as busy while it runs a
trial; what is sent and fetched between trials counts as idle. ``scheduler`` runs Dask's own scheduler and 20 of its
workers, with tasks that do nothing: what is measured is theirs.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests")]
# ruff: noqa: E402

import harness
from fleet_gpus import gpus

from edgeship.config import Target
from edgeship.fleet.config import Device, Fleet
from edgeship.fleet.started import scheduler, wait_until_there, workers
from edgeship.history.entry import Entry, KeptFigure, KeptRule, KeptTarget
from edgeship.history.store import History
from edgeship.targets import cluster, local, on_worker
from edgeship.targets.access import Access, library
from edgeship.targets.cluster import Cluster, connected
from fleet_support import fleet_file, free_port, models, processes, start, start_scheduler, trial, wait_until

MODELS, DEVICES, TRIALS = 50, 20, 12
GPUS_S = 140.0
"""What `gpus` lasts at most, roughly: two GPUs are lent for minutes."""
BLOCK = 32 << 20
"""Of files in one message, as the fleet sends them."""


def outcome(result: Path) -> dict[str, Any]:
    """By target: the verdict, and the metrics of every candidate."""
    told = json.loads(result.read_text())
    verdicts = {item["target_name"]: item["verdict"] for item in told["decisions"]}
    return {
        name: (verdict, {item["candidate"]: item["metrics"] for item in told["trials"] if item["target_name"] == name})
        for name, verdict in verdicts.items()
    }


def verdicts(_count: int) -> dict[str, Any]:
    """Two models on three workers, and each model by itself."""
    devices = ("one", "two", "three")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        models(root, "ships", "slow")
        config = root / "slow" / "edgeship.toml"
        config.write_text(config.read_text().replace("latency_p99_ms = 5000.0", "latency_p99_ms = 0.0001"))
        file = fleet_file(root, {model: list(devices) for model in ("ships", "slow")}, devices)
        begin = time.perf_counter()
        start(file).wait()
        seconds = time.perf_counter() - begin
        alone = {}
        begin = time.perf_counter()
        for model in ("ships", "slow"):
            harness.edgeship("ship", root / model / "edgeship.toml", "--out", root / "alone" / model)
            (alone[model],) = outcome(root / "alone" / model / "result.json").values()
        single = time.perf_counter() - begin
        found = {model: outcome(root / "fleet-out" / model / "result.json") for model in alone}
    unequal = [
        f"{model} on {label}: {cell}, alone {alone[model]}"
        for model, cells in found.items()
        for label, cell in cells.items()
        if cell != alone[model]
    ]
    return {
        "cells": {model: {label: cell[0] for label, cell in cells.items()} for model, cells in found.items()},
        "fleet_s": seconds,
        "single_ships_s": single,
        "unequal": unequal,
        "targets": [harness.target("cells that differ from a single ship", len(unequal), 0)],
    }


@contextmanager
def pool(root: Path, names: tuple[str, ...]) -> Iterator[Cluster]:
    """A local cluster over TLS with a worker of each name, as a fleet starts it."""
    fleet = Fleet(models={}, matrix={}, devices={name: Device() for name in names})
    with scheduler(fleet) as access, workers(fleet, access, root / "workers") as made:
        opened = Cluster(access)
        with connected(opened):
            wait_until_there(opened, made, set(names))
            yield opened


def overhead(count: int) -> dict[str, Any]:
    """Seconds of the same trial on a worker and here, in turn."""
    there = Target(host=f"{cluster.PREFIX}one", threads=1)
    times: dict[str, list[float]] = {"here": [], "worker": []}
    with tempfile.TemporaryDirectory() as name, pool(Path(name), ("one",)):
        for number in range(count + 1):
            for side, run in (("here", local.run), ("worker", lambda place: cluster.run(there, place))):
                place = trial(there if side == "worker" else Target(threads=1), Path(name) / f"{side}{number}")
                begin = time.perf_counter()
                run(place)
                times[side].append(time.perf_counter() - begin)
    medians = {side: statistics.median(found[1:]) for side, found in times.items()}
    cost = medians["worker"] - medians["here"]
    return {
        "seconds": times,
        "median_s": medians,
        "overhead_s": cost,
        "targets": [harness.target("overhead of a trial on a worker, with its files, s", cost, 1.0)],
    }


def busy(count: int) -> dict[str, Any]:
    """Trivial trials on four workers: each has two models' trials, one that runs and one that is sent or fetched."""
    names = ("w0", "w1", "w2", "w3")
    with tempfile.TemporaryDirectory() as name, pool(Path(name), names) as opened:
        root = Path(name)
        places = [
            (Target(host=f"{cluster.PREFIX}{names[number % 4]}", threads=1), root / f"t{number}")
            for number in range(count)
        ]
        for target, place in places:
            trial(target, place)
        with library().get_task_stream(opened.client()) as stream, ExitStack() as stack:
            hands = [stack.enter_context(ThreadPoolExecutor(2)) for _ in names]
            begin = time.perf_counter()
            sent = [hands[number % 4].submit(cluster.run, *item) for number, item in enumerate(places)]
            made = [future.result() for future in sent]
            seconds = time.perf_counter() - begin
        ran = [item for item in stream.data if str(item["key"]).startswith("run_trial")]
    assert all(item.failure is None for item in made), next(item.failure for item in made if item.failure)
    worked: Counter[str] = Counter()
    for item in ran:
        worked[item["worker"]] += sum(
            span["stop"] - span["start"] for span in item["startstops"] if span["action"] == "compute"
        )
    share = sum(worked.values()) / (len(names) * seconds)
    return {
        "trials": len(ran),
        "seconds": seconds,
        "share_of_each": sorted(value / seconds for value in worked.values()),
        "targets": [harness.target("share of the time in which workers run trials", share, 0.9, at_least=True)],
    }


VICTIMS = ("worker", "scheduler", "client")


def kills(count: int, seconds_most: float, done: dict[str, Any]) -> dict[str, Any]:
    """End one part of a fleet at a random moment of its run by SIGKILL; a client that was ended is started again.

    Each run must end in the verdict and metrics of an undisturbed one, with nothing left running. A moment at which
    that part was not there is drawn again. ``done``: the figures of earlier pieces, which are added to.
    """
    told, missed = list(done.get("kills", ())), int(done.get("missed", 0))
    chance = random.Random(len(told))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        root, port = Path(name), free_port()
        models(root, "m", trial_s=2.0)
        file = fleet_file(root, {"m": ["cpu"]}, ("one",), f"tcp://127.0.0.1:{port}")
        running = {"scheduler": start_scheduler(port)}
        stack.callback(lambda: running["scheduler"].kill())
        begin = time.perf_counter()
        assert start(file).wait() == 0, (root / "fleet.err").read_text()
        calm = time.perf_counter() - begin
        wanted = outcome(root / "fleet-out" / "m" / "result.json")
        while len(told) < count and time.perf_counter() - begin < seconds_most:
            shutil.rmtree(root / "fleet-out")
            kind, moment = VICTIMS[len(told) % len(VICTIMS)], chance.uniform(0.5, calm - 0.5)
            running["client"] = start(file)
            time.sleep(moment)
            struck = _strike(kind, root, running)
            if kind == "scheduler":
                running["scheduler"].wait()
                running["scheduler"] = start_scheduler(port)
            code = running["client"].wait()
            if kind == "client":
                wait_until(lambda: not processes(root))
                code = start(file).wait()
            if not struck:
                missed += 1
                continue
            right = code == 0 and outcome(root / "fleet-out" / "m" / "result.json") == wanted
            left = not wait_until(lambda: not processes(root), 30.0)
            told.append({"kind": kind, "moment_s": moment, "exit": code, "right": right, "left": left})
            print(
                f"{len(told):3} {kind:<9} at {moment:5.1f} s  {'right' if right and not left else told[-1]}", flush=True
            )
            if not right:
                print((root / "fleet.err").read_text()[-1000:], (root / "fleet.out").read_text()[-1000:], flush=True)
    good = sum(item["right"] and not item["left"] for item in told)
    return {
        "undisturbed_s": calm,
        "kills": told,
        "missed": missed,
        "targets": [harness.target("kills that end right, with nothing left", good, count, at_least=True)],
    }


def _strike(kind: str, root: Path, running: dict[str, subprocess.Popen[bytes]]) -> bool:
    """Kill a part of a fleet; whether it was there."""
    if kind != "worker":
        there = running[kind].poll() is None
        running[kind].kill()
        return there
    found = processes(root, "worker")
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return bool(found)


def memory_mib(process: int, field: str = "VmRSS") -> float:
    """Resident memory of a process now, or at its most (``VmHWM``)."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


async def serve(address: str) -> None:
    """Twenty workers in one process, each with its device and its label."""
    distributed = library()
    made = [
        await distributed.Worker(
            address, name=f"d{number}", nthreads=1, memory_limit=0, dashboard=False,
            resources={f"device:d{number}": 1.0, f"label:d{number}": 1.0},
        )
        for number in range(DEVICES)
    ]  # fmt: skip
    await asyncio.gather(*(worker.finished() for worker in made))


def nothing(_data: bytes) -> int:
    """How much came."""
    return len(_data)


def simulate(_count: int) -> dict[str, Any]:
    """All trials of a large fleet submitted at once, and a file to every device at the same time."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    serving = start_scheduler(port)
    there = subprocess.Popen([sys.executable, __file__, "serve", "--address", address], stderr=subprocess.DEVNULL)
    opened = Cluster(Access(address))
    try:
        assert wait_until(lambda: len(opened.workers()) == DEVICES)
        client = opened.client()
        calm = memory_mib(serving.pid)
        seen = list(opened.workers().values())
        begin = time.perf_counter()
        futures = [
            client.submit(
                on_worker.stop, f"m{model}-{place}-{number}", workers=[place.address], pure=False,
                resources={f"device:{place.name}": 1}, allow_other_workers=False,
            )
            for model in range(MODELS) for place in seen for number in range(TRIALS)
        ]  # fmt: skip
        submitted = time.perf_counter() - begin
        client.gather(futures)
        ended = time.perf_counter() - begin
        held = memory_mib(serving.pid)
        count = len(futures)
        del futures
        begin = time.perf_counter()
        sent = [client.submit(nothing, bytes(BLOCK), workers=[place.address], pure=False) for place in seen]
        client.gather(sent)
        moved = time.perf_counter() - begin
        most = memory_mib(serving.pid, "VmHWM")
    finally:
        opened.close()
        for process in (there, serving):
            process.kill()
            process.wait()
    return {
        "tasks": count,
        "submit_s": submitted,
        "all_done_s": ended,
        "scheduler_mib": {"idle": calm, "with_all_tasks": held, "most_with_files": most},
        "files": {"count": DEVICES, "mib_each": BLOCK / 2**20, "seconds": moved},
        "targets": [harness.target("seconds to submit every trial", submitted, 10.0)],
    }


def history(count: int) -> dict[str, Any]:
    """Milliseconds to append a run of 40 rules to a history of 100,000."""
    target = KeptTarget(name="t", verdict="SHIP", chosen="int8", engine="onnxruntime", engine_version="1", device="cpu")

    def entry(digest: str, rules: int) -> Entry:
        made = [
            KeptRule(
                target="t", candidate="int8", name=f"max_drop.m{number}", outcome="pass", measured=0.001, bound=None,
                limit=0.01, unit="", reason="it holds",
            )
            for number in range(rules)
        ]  # fmt: skip
        return Entry(
            digest=digest, finished="2026-01-01T00:00:00+00:00", model="m", version="1", commit="c" * 40, changed=False,
            verdict="SHIP", sentence="int8 passes", edgeship="0", digests={"model": "0" * 64}, targets=(target,),
            rules=tuple(made), figures=(KeptFigure(target="t", candidate="int8", name="latency_p50_ms", value=4.2),),
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as name:
        kept = History(Path(name) / "history.sqlite")
        for number in range(100):
            kept.append(entry(f"r{number}", 1000))
        times = []
        for number in range(count):
            made = entry(f"t{number}", 40)
            begin = time.perf_counter()
            kept.append(made)
            times.append((time.perf_counter() - begin) * 1e3)
    median = statistics.median(times)
    return {"ms": times, "median_ms": median, "targets": [harness.target("median of an append, ms", median, 50.0)]}


def main() -> None:
    """Run one part and print what it found."""
    parts: dict[str, tuple[Callable[[int], dict[str, Any]], int]] = {
        "verdicts": (verdicts, 1),
        "overhead": (overhead, 5),
        "busy": (busy, 200),
        "kills": (lambda count: kills(count, arguments.seconds, done), 20),
        "scheduler": (simulate, 1),
        "history": (history, 50),
        "gpus": (lambda count: gpus(count, arguments.device, min(arguments.seconds, GPUS_S), save), 1000),
    }
    parser = harness.parser(__doc__)
    parser.add_argument("part", choices=(*parts, "serve"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--address", default="", help="serve: the scheduler of the workers that `scheduler` starts")
    parser.add_argument("--more", action="store_true", help="kills: go on from what --json holds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="kills, gpus: begin nothing after this")
    parser.add_argument("--device", default="cuda:0", help="gpus: cpu tries the script where there is no GPU")
    arguments = parser.parse_args()
    if arguments.part == "serve":
        asyncio.run(serve(arguments.address))
        return
    before = harness.facts()
    done = harness.earlier(arguments.json, before["commit"]) if arguments.more else {}

    def save(figures: dict[str, Any]) -> None:
        harness.record(arguments.json, before, **figures)

    work, count = parts[arguments.part]
    told = work(arguments.count or count)
    print(json.dumps(told, indent=2))
    save(told)


if __name__ == "__main__":
    main()
