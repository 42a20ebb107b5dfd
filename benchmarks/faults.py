"""Bad files, hostile devices and killed runs, in numbers.

    python benchmarks/faults.py fuzz [--count 10000]        mutated files of every kind that edgeship reads
    python benchmarks/faults.py device [--count 1000]       mutated replies of a device
    python benchmarks/faults.py kill [--count 50]           KILL, TERM and INT at random moments of `edgeship ship`
    python benchmarks/faults.py flip                        one bit of a finished run's stage files, then ship again
    python benchmarks/faults.py frames [--count 2600000]    frames through one open bundle: a day at 30 frames a second
    python benchmarks/faults.py full                        a file system with no space left (needs root, for tmpfs)

``fuzz`` and ``device`` count what is not an error of edgeship's own (a traceback), what takes over 5 s, files that
appear or change outside the work folder, and files outside it that Python opens meanwhile. ``kill`` and ``flip`` ship
a small project (the Fashion-MNIST network, 32 images to calibrate with, 60 to evaluate, fp32 and int8) and compare
verdict and metrics with an undisturbed run; what a killed run leaves behind once it has been run again is counted
too. Both can be run in pieces: ``--seconds 800 --more --json FILE`` adds to what FILE holds of the same commit, until
all is done.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "end_to_end")]
# ruff: noqa: E402

import harness
from fuzz_kinds import kinds_of
from projects import Project, make_project

from edgeship import targets
from edgeship.bundle import Contents, write
from edgeship.config import Batch, Target
from edgeship.errors import EdgeshipError
from edgeship.files import sha256_file
from edgeship.runtime.model import load
from edgeship.targets import link, ssh, wire
from edgeship.trial.run import run_trial
from edgeship.version import __version__
from hostile_device import honest, orders, place_ssh
from vehicle_support import decision, ground, make_trial

LIMIT_S = 5.0


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A few cuts, flips, repeats and insertions."""
    raw = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        kind = chance.randrange(6)
        at = chance.randrange(len(raw) + 1)
        if kind == 0 and raw:
            raw[at % len(raw)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del raw[at : at + chance.randint(1, 64)]
        elif kind == 2:
            raw[at:at] = chance.randbytes(chance.randint(1, 32))
        elif kind == 3:
            raw[at:at] = raw[at : at + chance.randint(1, 256)]
        elif kind == 4:
            raw[at : at + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, b"../.", b"1e99", b"-1,\n", b'{"":', b"[[[["])
        else:
            raw = raw[: max(1, at)]
    return bytes(raw)


def snapshot(folder: Path) -> set[str]:
    """Every path below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Watch:
    """Files outside ``root`` that Python opens while ``watching``; its own libraries, /proc and /sys do not count.

    An audit hook: it sees what Python code opens, not what a native library does, and stays until the process ends.
    """

    def __init__(self, root: Path) -> None:
        usual = (*filter(None, sys.path), sys.prefix, sys.base_prefix, str(HERE.parent))
        usual += ("/proc", "/sys", "/dev/null", "/usr/lib", "/usr/share")
        self.inside = tuple({os.path.realpath(place) for place in (root, *usual)})
        self.watching = False
        self.opened: set[str] = set()
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching or event not in ("open", "os.listdir", "os.scandir") or isinstance(arguments[0], int):
            return
        path = os.path.realpath(os.fsdecode(arguments[0] or "."))
        if not any(path == place or path.startswith(f"{place}/") for place in self.inside):
            self.opened.add(path)


def fuzz(count: int, seed: int) -> dict[str, object]:
    """Mutate and read ``count`` files."""
    chance = random.Random(seed)
    outcome: Counter[str] = Counter()
    troubles: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "work"
        (root / "tmp").mkdir(parents=True)
        tempfile.tempdir = str(root / "tmp")  # where zips are unpacked
        kinds = kinds_of(root)
        for good, reader in kinds.values():
            reader(good)  # whole, each of them is accepted
        before, around, watch = snapshot(root), snapshot(Path(name)), Watch(root)
        for number in range(count):
            kind = list(kinds)[number % len(kinds)]
            good, reader = kinds[kind]
            start, watch.watching = time.perf_counter(), True
            try:
                reader(mutate(good, chance))
                outcome[f"{kind}: accepted"] += 1
            except EdgeshipError:
                outcome[f"{kind}: refused"] += 1
            except Exception as error:  # noqa: BLE001 - exactly what is counted here
                outcome[f"{kind}: traceback"] += 1
                troubles.append(f"{kind}: {type(error).__name__}: {error}"[:300])
            seconds, watch.watching = time.perf_counter() - start, False
            slowest = max(slowest, seconds)
            outcome["hangs"] += seconds > LIMIT_S
        own = {f"work/{place}/{path}" for place in ("scratch", "tmp") for path in snapshot(root / place)}
        strays = sorted(snapshot(Path(name)) - around - own)
        assert snapshot(root) >= before
    reached = [
        harness.target("tracebacks", len(troubles), 0),
        harness.target("files that took over 5 s", outcome["hangs"], 0),
        harness.target("files written outside", len(strays), 0),
        harness.target("files outside that Python opened", len(watch.opened), 0),
    ]
    return {"count": count, "kinds": len(kinds), "outcome": dict(outcome), "slowest_s": slowest, "strays": strays,
            "opened_outside": sorted(watch.opened), "troubles": troubles[:20], "targets": reached}  # fmt: skip


def ship(config: Path, out: Path) -> subprocess.Popen[bytes]:
    """``edgeship ship`` in a process of its own."""
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "edgeship", "ship", str(config), "--out", str(out)]
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def answer(out: Path) -> dict[str, object]:
    """What must not change: verdict and metrics."""
    result = json.loads((out / "result.json").read_text())
    metrics = {trial["candidate"]: trial["metrics"] for trial in result["trials"]}
    return {"verdict": result["verdict"], "metrics": metrics}


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def leftovers(out: Path) -> list[str]:
    """Temporary files and folders in a work folder, and unpacked bundles."""
    found = [
        str(path.relative_to(out)) for path in out.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"
    ]
    return found + [path.name for path in Path(tempfile.gettempdir()).glob("edgeship-bundle-*")]


def kill(count: int, seed: int, seconds_most: float, done: dict[str, Any]) -> dict[str, object]:
    """End ``edgeship ship`` at random moments; run again, every run must end as an undisturbed one does.

    ``done``: the figures of earlier pieces, which are added to.
    """
    struck: Counter[str] = Counter(done.get("signals", {}))
    runs, same, left = int(done.get("runs", 0)), int(done.get("same", 0)), list(done.get("leftovers", ()))
    chance = random.Random(seed + runs)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = make_project(root / "project").config
        start = time.perf_counter()
        ship(config, root / "calm").wait()
        seconds = time.perf_counter() - start
        wanted = answer(root / "calm")
        while struck.total() < count and time.perf_counter() - start < seconds_most:
            out = root / f"run{runs}"
            runs += 1
            for _ in range(5):
                process = ship(config, out)
                try:
                    process.wait(chance.uniform(0.1, seconds))
                    break
                except subprocess.TimeoutExpired:
                    number = SIGNALS[struck.total() % len(SIGNALS)]
                    os.killpg(process.pid, number)
                    process.wait()
                    struck[number.name] += 1
            ship(config, out).wait()
            equal = answer(out) == wanted
            same += equal
            left += leftovers(out)
            print(f"{struck.total():3} signals, run {runs}: {'same' if equal else 'DIFFERS'}", flush=True)
            shutil.rmtree(out)
    figures = {"signals": dict(struck), "runs": runs, "same": same, "leftovers": left, "undisturbed_s": seconds}
    reached = [
        harness.target("signals", struck.total(), count, at_least=True),
        harness.target("runs that differ", runs - same, 0),
        harness.target("files left over", len(left), 0),
    ]
    return figures | {"targets": reached}


PLACES = ("start", "middle", "end")
LAST = ("decide-", "evidence-")
"""Stages that a run makes anew where a trial is measured again: each of their files is damaged alone, and first."""


def flip(count: int, seed: int, seconds_most: float, done: dict[str, Any]) -> dict[str, object]:
    """Flip a bit at the start, in the middle or at the end of every file of a finished run's stages; ship again.

    One file of each stage at a time: a stage is found damaged by its own seal. ``done``: the figures of earlier
    pieces, whose classes are left out. A flip was noticed where the file does not hold the flipped bytes afterwards.
    The file ``lock`` of a trial is no result: it holds the number of a process that is gone.
    """
    chance = random.Random(seed)
    outcome: Counter[str] = Counter(done.get("outcome", {}))
    troubles, told = list(done.get("troubles", ())), list(done.get("classes", ()))
    with tempfile.TemporaryDirectory() as name:
        project: Project = make_project(Path(name) / "project")
        begin = time.perf_counter()
        ship(project.config, project.out).wait()
        wanted = answer(project.out)
        places = _stage_files(project.out / "stages")
        classes = [f"{name} at its {where}" for name in places for where in PLACES]
        while len(told) < count and time.perf_counter() - begin < seconds_most:
            batch = _together([item for item in classes if item not in told])
            if not batch:
                break
            flipped = {item: _flip(places[item.rpartition(" at its ")[0]], item, chance) for item in batch}
            ended = ship(project.config, project.out).wait()
            same = ended == 0 and answer(project.out) == wanted
            for item, bytes_then in flipped.items():
                path = places[item.rpartition(" at its ")[0]]
                noticed = not path.is_file() or path.read_bytes() != bytes_then
                outcome["noticed and redone" if same and noticed else f"exit {ended}, noticed: {noticed}"] += 1
                troubles += [] if same and noticed else [f"{item}: exit {ended}, noticed: {noticed}, same: {same}"]
            told += batch
            print(f"{len(told)} of {len(classes)} classes, {len(troubles)} troubles", flush=True)
            if not same:
                shutil.rmtree(project.out)
                ship(project.config, project.out).wait()
                places = _stage_files(project.out / "stages")
    return {
        "position_classes": len(classes),
        "files": len(places),
        "tried": len(told),
        "outcome": dict(outcome),
        "troubles": troubles,
        "targets": [
            harness.target("classes not tried", len(set(classes) - set(told)), 0),
            harness.target("dead ends, and flips that nobody noticed", len(troubles), 0),
        ],
        "classes": told,
    }


def _stage_files(stages: Path) -> dict[str, Path]:
    """The files of a run's stages by stage and path: folders are named after times, which differ from run to run."""
    found = [path for path in sorted(stages.rglob("*")) if path.is_file() and path.stat().st_size]
    names = [path.relative_to(stages) for path in found]
    short = ["/".join((name.parts[0].rpartition("-")[0], *name.parts[1:])) for name in names]
    return {name: path for name, path in zip(short, found, strict=True) if path.name != "lock"}


def _together(classes: list[str]) -> list[str]:
    """The next classes to damage in one run: one of :data:`LAST` alone, then the first of each other stage."""
    alone = [item for item in classes if f"{item.partition('/')[0]}-".startswith(LAST)]
    return alone[:1] or list({item.partition("/")[0]: item for item in reversed(classes)}.values())


def _flip(path: Path, name: str, chance: random.Random) -> bytes:
    """Flip a bit where a class says; the file's bytes afterwards."""
    data = bytearray(path.read_bytes())
    place = {"start": 0, "middle": len(data) // 2, "end": len(data) - 1}[name.rpartition(" ")[2]]
    data[place] ^= 1 << chance.randrange(7)
    path.write_bytes(data)
    return bytes(data)


HELLO = {"protocol": wire.PROTOCOL, "edgeship": __version__, "base": "/x", "free": 1 << 40}
REQUESTS = ("hello", "have", "tree", "trial", "follow", "list", "get", "drop")
STRANGE: tuple[object, ...] = (
    None, True, -1, 0.5, 1e308, 10**400, "", "x" * 100_000, "\x1b[2J\x07", "../../etc/passwd", "/etc/passwd", [], {},
    {"error": {"kind": "StorageError", "found": "\x1b[31m", "do": "rm -rf ~"}}, ["x"] * 1000,
)  # fmt: skip


def hostile(honest_reply: dict[str, object], chance: random.Random) -> bytes:
    """A reply that is wrong in structure or in its bytes."""
    kind = chance.randrange(5)
    if kind == 0:
        return mutate(json.dumps(honest_reply).encode() + b"\n", chance)
    reply = json.loads(json.dumps(honest_reply))
    holder, key = reply, chance.choice(list(reply) or ["x"])
    while isinstance(holder[key], dict) and holder[key] and chance.random() < 0.7:
        holder, key = holder[key], chance.choice(list(holder[key]))
    if kind == 1:
        del holder[key]
    elif kind == 2:
        holder[str(chance.choice(STRANGE))[:200]] = holder.pop(key)
    elif kind == 3:
        return json.dumps(chance.choice([STRANGE, reply, [reply], {"error": chance.choice(STRANGE)}])).encode() + b"\n"
    else:
        holder[key] = chance.choice(STRANGE)
    return json.dumps(reply).encode() + b"\n"


def device(count: int, seed: int) -> dict[str, object]:
    """A trial on a device that is honest apart from one reply; ``count`` times."""
    chance = random.Random(seed)
    outcome: Counter[str] = Counter()
    troubles: list[str] = []
    slowest = 0.0
    there = Target(host="device", batch=Batch(min=1, opt=2, max=4), threads=1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        made = ground(root / "ground")
        run_trial(make_trial(root / "there", made))
        os.environ["PATH"] = f"{place_ssh(root / 'bin')}:{os.environ['PATH']}"
        os.environ["DEVICE_ORDERS"] = str(root / "orders.json")
        ssh.FIRST_PAUSE_S = 0.05
        watch = Watch(root)
        for number in range(count):
            folder = make_trial(root / "work" / "trial", made, target=there)
            inputs = {path.name: sha256_file(path) for path in folder.iterdir()}
            around = {
                path: sha256_file(path) for path in root.rglob("*") if path.is_file() and "work" not in path.parts
            }
            do = REQUESTS[number % len(REQUESTS)]
            said, payload = honest(do, {"name": "trial.json"}, {"trial": str(root / "there"), "greeting": HELLO})
            reply = hostile(said or {"ok": True}, chance) + payload
            ends = {do: {"then": "close"}} if do == "get" or not reply.endswith(b"\n") else {}
            (root / "orders.json").write_text(orders(root / "there", HELLO, {do: reply}, **ends))
            around[root / "orders.json"] = sha256_file(root / "orders.json")
            link.close_all()
            start, watch.watching = time.perf_counter(), True
            try:
                targets.run(there, folder)
                outcome[f"{do}: accepted"] += 1
            except EdgeshipError as error:
                outcome[f"{do}: refused"] += 1
                outcome["escapes shown"] += any(ord(sign) < 32 and sign != "\n" for sign in str(error))
            except Exception as error:  # noqa: BLE001 - exactly what is counted here
                outcome[f"{do}: traceback"] += 1
                troubles.append(f"{do} {reply[:120]!r}: {type(error).__name__}: {error}"[:400])
            seconds, watch.watching = time.perf_counter() - start, False
            slowest = max(slowest, seconds)
            outcome["over 5 s"] += seconds > LIMIT_S
            if seconds > LIMIT_S:
                troubles.append(f"{do} {reply[:120]!r}: {seconds:.1f} s")
                print(troubles[-1], flush=True)
            changed = [name for name, digest in inputs.items() if sha256_file(folder / name) != digest]
            changed += [str(path) for path, digest in around.items() if sha256_file(path) != digest]
            outcome["changed outside"] += len(changed)
            shutil.rmtree(root / "work")
    tracebacks = sum(number for kind, number in outcome.items() if kind.endswith("traceback"))
    reached = [
        harness.target("tracebacks", tracebacks, 0),
        harness.target("files changed outside", outcome["changed outside"], 0),
        harness.target("files outside that Python opened", len(watch.opened), 0),
    ]
    return {
        "count": count,
        "outcome": dict(outcome),
        "slowest_s": slowest,
        "opened_outside": sorted(watch.opened),
        "troubles": troubles[:20],
        "targets": reached,
    }


def resident_mib() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def frames(count: int) -> dict[str, object]:
    """``count`` frames through one open bundle; memory and time of each tenth."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        trial = make_trial(root / "trial", ground(root / "ground"))
        run_trial(trial)
        write(Contents(trial, decision(), reference=trial), root / "bundle")
        feeds = {"images": np.zeros((1, 3, 16, 16), np.float32)}
        memory, medians = [], []
        with load(root / "bundle", budget_ms=33.3) as model:
            for _ in range(1000):
                model.infer(feeds)
            for _ in range(10):
                begin = time.perf_counter()
                for _ in range(count // 10):
                    model.infer(feeds)
                medians.append((time.perf_counter() - begin) / (count // 10) * 1e6)
                memory.append(resident_mib())
            seen = model.statistics()
    growth = memory[-1] - memory[0]
    return {"frames": seen.frames, "resident_mib": memory, "mean_us": medians, "growth_mib": growth,
            "targets": [harness.target("growth in MiB", growth, 1)]}  # fmt: skip


def full() -> dict[str, object]:
    """A trial on a file system that fills up, and again when there is space."""
    with tempfile.TemporaryDirectory() as name:
        made = ground(Path(name) / "ground")
        disk = Path(name) / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=True)
        try:
            folder = make_trial(disk / "trial", made)
            ballast = disk / "ballast"
            free = shutil.disk_usage(disk).free
            ballast.write_bytes(bytes(max(0, free - 8192)))
            told: dict[str, object] = {}
            try:
                run_trial(folder)
                told["full"] = "finished"
            except EdgeshipError as error:
                told["full"] = f"{type(error).__name__}: {error.found}"
            ballast.unlink()
            told["after"] = "finished" if run_trial(folder).failure is None else "failed"
            return told
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def main() -> None:
    """Run one part and print what it found."""
    parser = harness.parser(__doc__)
    parser.add_argument("part", choices=("fuzz", "device", "kill", "flip", "frames", "full"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--more", action="store_true", help="kill, flip: go on from what --json holds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="kill, flip: begin nothing after this")
    arguments = parser.parse_args()
    before = harness.facts()
    given = {"fuzz": 10_000, "device": 1_000, "kill": 50, "flip": 100_000, "frames": 2_600_000, "full": 1}
    count = arguments.count or given[arguments.part]
    done = harness.earlier(arguments.json, before["commit"]) if arguments.more else {}
    parts: dict[str, Callable[[], dict[str, object]]] = {
        "fuzz": lambda: fuzz(count, arguments.seed),
        "device": lambda: device(count, arguments.seed),
        "kill": lambda: kill(count, arguments.seed, arguments.seconds, done),
        "flip": lambda: flip(count, arguments.seed, arguments.seconds, done),
        "frames": lambda: frames(count),
        "full": full,
    }
    told = parts[arguments.part]()
    print(json.dumps(told, indent=2))
    harness.record(arguments.json, before, **told)


if __name__ == "__main__":
    main()
