"""Bad files and killed runs, in numbers.

    python benchmarks/faults.py fuzz [--count 10000]        mutated bundles, zips, manifests, caches, trials, configs
    python benchmarks/faults.py kill [--count 50]           SIGKILL at random moments of `edgeship ship`
    python benchmarks/faults.py full                        a file system with no space left (needs root, for tmpfs)

``fuzz`` counts what is not an error of edgeship's own (a traceback), what takes over 5 s, and files that appear
outside the work folder. ``kill`` ships a small project (the Fashion-MNIST network, 32 images to calibrate with, 60 to
evaluate, fp32 and int8) and compares verdict and metrics with an undisturbed run.
"""

from __future__ import annotations

import argparse
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

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "end_to_end")]
# ruff: noqa: E402

from conftest import make_project
from recorded import conditions

from edgeship.bundle import MANIFEST, Contents, verify, write, zip_bundle
from edgeship.bundle.manifest import parse
from edgeship.config import load as load_config
from edgeship.errors import EdgeshipError
from edgeship.files import sha256_bytes
from edgeship.results import Trial, TrialSpec, read
from edgeship.runtime import load as load_bundle
from edgeship.trial.run import run_trial
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


def targets(root: Path) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """What is mutated: its good bytes, and what reads it."""
    trial = make_trial(root / "trial", ground(root / "ground"))
    run_trial(trial)
    bundle = root / "bundle"
    write(Contents(trial, decision(), reference=trial), bundle)
    packed = zip_bundle(bundle, root / "good.zip").read_bytes()
    config = (HERE.parent / "examples" / "fashion" / "edgeship.toml").read_bytes()
    scratch = root / "scratch"
    scratch.mkdir()

    def in_bundle(data: bytes) -> object:
        (bundle / MANIFEST).write_bytes(data)
        return verify(bundle)

    def in_runtime(data: bytes) -> object:
        (bundle / MANIFEST).write_bytes(data)
        with load_bundle(bundle) as model:
            return model.inputs

    known, consistent = bundle / "known.npz", json.loads((bundle / MANIFEST).read_bytes())
    answer_bytes = known.read_bytes()

    def as_known_input(data: bytes) -> object:
        known.write_bytes(data)
        consistent["files"][known.name] |= {"sha256": sha256_bytes(data), "size_bytes": len(data)}
        try:
            return in_runtime(json.dumps(consistent).encode())
        finally:
            known.write_bytes(answer_bytes)

    def in_file(name: str, reader: Callable[[Path], object]) -> Callable[[bytes], object]:
        def work(data: bytes) -> object:
            (scratch / name).write_bytes(data)
            return reader(scratch / name)

        return work

    found: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
        "zip": (packed, in_file("mutated.zip", verify)),
        "manifest": ((bundle / MANIFEST).read_bytes(), lambda data: parse(data, "mutated")),
        "bundle": ((bundle / MANIFEST).read_bytes(), in_bundle),
        "runtime": ((bundle / MANIFEST).read_bytes(), in_runtime),
        "known input": (answer_bytes, as_known_input),
        "config": (config, in_file("edgeship.toml", load_config)),
        "spec": ((trial / "spec.json").read_bytes(), in_file("spec.json", lambda path: read(TrialSpec, path))),
        "trial": ((trial / "trial.json").read_bytes(), in_file("trial.json", lambda path: read(Trial, path))),
    }
    return found | _cache(in_file)


def _cache(
    in_file: Callable[[str, Callable[[Path], object]], Callable[[bytes], object]],
) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    from edgeship.prepare.cache import parse_cache

    text = b"TRT-101600-EntropyCalibration2\nimages: 3c010a14\nconv1: 3d2a3b4c\nlogits: 3e99999a\n"
    return {"cache": (text, in_file("calib.cache", parse_cache))}


def fuzz(count: int, seed: int) -> dict[str, object]:
    """Mutate and read ``count`` files."""
    chance = random.Random(seed)
    outcome: Counter[str] = Counter()
    troubles: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "work"
        root.mkdir()
        kinds = targets(root)
        before, around = snapshot(root), snapshot(Path(name))
        for number in range(count):
            kind = list(kinds)[number % len(kinds)]
            good, reader = kinds[kind]
            start = time.perf_counter()
            try:
                reader(mutate(good, chance))
                outcome[f"{kind}: accepted"] += 1
            except EdgeshipError:
                outcome[f"{kind}: refused"] += 1
            except Exception as error:  # noqa: BLE001 - exactly what is counted here
                outcome[f"{kind}: traceback"] += 1
                troubles.append(f"{kind}: {type(error).__name__}: {error}"[:300])
            seconds = time.perf_counter() - start
            slowest = max(slowest, seconds)
            outcome["hangs"] += seconds > LIMIT_S
        strays = sorted(snapshot(Path(name)) - around - {f"work/scratch/{path}" for path in snapshot(root / "scratch")})
        assert snapshot(root) >= before
    return {"count": count, "outcome": dict(outcome), "slowest_s": slowest, "strays": strays, "troubles": troubles[:20]}


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


def kill(count: int, seed: int, seconds_most: float) -> dict[str, object]:
    """Kill ``edgeship ship`` at random moments until it ends; every run must end as an undisturbed one does."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = make_project(root / "project").config
        start = time.perf_counter()
        ship(config, root / "calm").wait()
        seconds = time.perf_counter() - start
        wanted = answer(root / "calm")
        told, struck, runs = [], 0, 0
        while struck < count:
            out = root / f"run{runs}"
            runs += 1
            for _ in range(5):
                if time.perf_counter() - start > seconds_most:
                    break
                process = ship(config, out)
                moment = chance.uniform(0.1, seconds)
                try:
                    process.wait(moment)
                    break
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    struck += 1
            ship(config, out).wait()
            same = answer(out) == wanted
            told.append(same)
            print(f"{struck:3} kills, run {runs}: {'same' if same else 'DIFFERS'}", flush=True)
            shutil.rmtree(out)
            if time.perf_counter() - start > seconds_most:
                break
    return {"kills": struck, "runs": runs, "same": sum(told), "undisturbed_s": seconds}


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("fuzz", "kill", "full"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="kill: begin no further run after this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.part == "fuzz":
        told = fuzz(arguments.count or 10_000, arguments.seed)
    elif arguments.part == "kill":
        told = kill(arguments.count or 50, arguments.seed, arguments.seconds)
    else:
        told = full()
    told = conditions() | told
    print(json.dumps(told, indent=2))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
