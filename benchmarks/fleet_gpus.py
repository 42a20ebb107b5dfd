"""Two GPUs of one host as two workers of a fleet: how much faster two are than one, and whether they disturb clocks.

Run by ``benchmarks/fleet.py gpus``. The same trials run on one worker and then on both, in turn, three times; a
ranking runs on one worker's threads and then on both's; the latency of an engine is measured on one worker with the
other one idle and with the other one measuring too.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
import onnx
from models import chain
from PIL import Image

from edgeship.config import Batch, Benchmark, Evaluation, Preprocess, Target
from edgeship.data.loader import MOST_WORKERS, cores
from edgeship.fleet.config import Device, Fleet
from edgeship.fleet.started import scheduler, wait_until_there, workers
from edgeship.prepare.noise_meter import on_threads
from edgeship.prepare.sensitivity import RankOptions, Simulator
from edgeship.progress import silent
from edgeship.results import Artifact, Candidate, Trial, TrialSpec, trial_folder
from edgeship.targets import cluster
from edgeship.targets.cluster import Cluster, connected
from edgeship.targets.ranking import Hand, Ranking

NAMES = ("gpu0", "gpu1")
SIDE, WIDTH, DEPTH = 224, 64, 40
CLASSES = tuple(f"class{number}" for number in range(10))
ROUNDS = 3


@dataclass(frozen=True)
class Ground:
    """A model and labelled images that trials are made of, and the engine's device."""

    model: Path
    images: Path
    device: str

    def trial(self, folder: Path, name: str, benchmark: Benchmark | None) -> tuple[Target, Path]:
        """A trial for the worker of a name: evaluated, or, with a benchmark, timed alone."""
        folder.mkdir(parents=True)
        shutil.copyfile(self.model, folder / "model.onnx")
        np.savez(folder / "frames.npz", images=np.zeros((1, 3, SIDE, SIDE), np.float32))
        target = Target(host=f"{cluster.PREFIX}{name}", device=self.device, batch=Batch(min=1, opt=8, max=8))
        measured = Evaluation(task="classification", images=self.images, classes=CLASSES)
        spec = TrialSpec(
            candidate=Candidate(name="fp32", precision="fp32"), target_name=name, target=target,
            model=Artifact.of(folder / "model.onnx", folder), frames=Artifact.of(folder / "frames.npz", folder),
            benchmark=benchmark, evaluation=None if benchmark else measured,
            preprocess=Preprocess(fit="stretch", mean=(127.0,), std=(128.0,)),
        )  # fmt: skip
        trial_folder.write_spec(spec, folder)
        return target, folder


def ground(root: Path, count: int, device: str) -> Ground:
    """The model, and ``count`` images of 640 x 480; 20 different ones, the others are links."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = root / "val" / CLASSES[number % 10] / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        if number < 20:
            Image.fromarray(random.integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(place)
        else:
            place.hardlink_to(root / "val" / CLASSES[number % 10] / f"{number % 20:05}.jpg")
    return Ground(chain(root / "model.onnx", SIDE, WIDTH, DEPTH), root / "val", device)


def run(trials: list[tuple[Target, Path]]) -> tuple[float, list[Trial]]:
    """Seconds in which trials end, two at a time for each worker: one runs, one is sent or fetched."""
    places = sorted({target.host or "" for target, _ in trials})
    with ExitStack() as stack:
        hands = {place: stack.enter_context(ThreadPoolExecutor(2)) for place in places}
        begin = time.perf_counter()
        sent = [hands[target.host or ""].submit(cluster.run, target, place) for target, place in trials]
        made = [future.result() for future in sent]
        seconds = time.perf_counter() - begin
    failed = next((item.failure for item in made if item.failure is not None), None)
    assert failed is None, failed
    return seconds, made


def evaluations(made: Ground, root: Path, each: int) -> dict[str, Any]:
    """The same evaluations on one worker and spread over both, in turn; files and images are there already."""
    run([made.trial(root / f"warm-{name}", name, None) for name in NAMES])
    seconds: dict[str, list[float]] = {"one": [], "both": []}
    metrics = set()
    for turn in range(ROUNDS):
        for side, names in (("one", NAMES[:1]), ("both", NAMES)):
            trials = [
                made.trial(root / f"{side}{turn}-{number}", names[number % len(names)], None)
                for number in range(2 * each)
            ]
            took, ended = run(trials)
            seconds[side].append(took)
            metrics |= {str(item.evaluation.metrics) for item in ended if item.evaluation is not None}
    gain = statistics.median(seconds["one"]) / statistics.median(seconds["both"])
    return {"trials": 2 * each, "seconds": seconds, "gain": gain, "different_metrics": len(metrics)}


def rankings(opened: Cluster, made: Ground, root: Path, frames: int) -> dict[str, Any]:
    """One ranking on the threads of one worker and on those of both, in turn; every answer the same as here."""
    feeds = [
        (tuple(map(str, range(8))), {"images": np.random.default_rng(k).random((8, 3, SIDE, SIDE), np.float32)})
        for k in range(frames // 8)
    ]
    found = Simulator(onnx.load(made.model), None, feeds, RankOptions("fp16", frames=frames))
    sets = [[position] for position in range(len(found.groups))]
    threads = min(MOST_WORKERS, max(1, cores() // 2))
    begin = time.perf_counter()
    with on_threads(found.switched, threads) as alone:
        wanted = list(alone(sets))
    here = time.perf_counter() - begin
    seen = opened.workers()
    seconds: dict[str, list[float]] = {"one": [], "both": []}
    unequal = 0
    for side, names in (("one", NAMES[:1]), ("both", NAMES)):
        hands = [Hand(seen[name], threads) for name in names]
        (root / side).mkdir()
        ranking = Ranking(opened, found.switched, root / side, silent)
        list(ranking.measure(hands, sets[: 2 * threads]))  # sent and opened
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            unequal += list(ranking.measure(hands, sets)) != wanted
            seconds[side].append(time.perf_counter() - begin)
        ranking.end(hands)
    gain = statistics.median(seconds["one"]) / statistics.median(seconds["both"])
    return {"groups": len(sets), "frames": frames, "threads_each": threads, "here_s": here, "seconds": seconds,
            "gain": gain, "unequal": unequal}  # fmt: skip


def clocks(made: Ground, root: Path, seconds: float) -> dict[str, Any]:
    """Median latency on the first worker, in ms, with the second one idle and with it measuring all the while."""
    benchmark = Benchmark(warmup_s=1.0, min_s=seconds, max_s=seconds + 1, min_samples=50)
    longer = benchmark.model_copy(update={"min_s": 3 * seconds + 5, "max_s": 3 * seconds + 6})
    found: dict[str, list[float]] = {"alone": [], "beside": []}
    for turn in range(ROUNDS):
        found["alone"].append(_median_ms(made.trial(root / f"alone{turn}", NAMES[0], benchmark)))
        other = made.trial(root / f"other{turn}", NAMES[1], longer)
        beside = threading.Thread(target=run, args=([other],))
        beside.start()
        time.sleep(seconds)
        found["beside"].append(_median_ms(made.trial(root / f"beside{turn}", NAMES[0], benchmark)))
        beside.join()
    medians = {side: statistics.median(values) for side, values in found.items()}
    return {"ms": found, "change": medians["beside"] / medians["alone"] - 1}


def _median_ms(place: tuple[Target, Path]) -> float:
    """Of the device's time where the engine tells it."""
    _, (trial,) = run([place])
    assert trial.latency is not None
    return (trial.latency.device_ms or trial.latency.wall_ms).p50


def gpus(count: int, device: str = "cuda:0") -> dict[str, Any]:
    """All three; ``count`` images for each evaluation."""
    where = {name: Device(gpu=number if device != "cpu" else None) for number, name in enumerate(NAMES)}
    fleet = Fleet(models={}, matrix={}, devices=where)
    with tempfile.TemporaryDirectory() as name, scheduler(fleet) as access:
        root = Path(name)
        with workers(fleet, access, root / "workers") as made, connected(Cluster(access)) as opened:
            wait_until_there(opened, made, set(NAMES))
            ready = ground(root / "ground", count, device)
            small = count < 100
            told = {
                "evaluation": evaluations(ready, root / "evaluations", 1 if small else 4),
                "ranking": rankings(opened, ready, root, 8 if small else 32),
                "clocks": clocks(ready, root / "clocks", 0.5 if small else 6.0),
            }
    reached = [
        harness.target("evaluations on two GPUs over one", told["evaluation"]["gain"], 1.8, at_least=True),
        harness.target("a ranking on two workers over one", told["ranking"]["gain"], 1.8, at_least=True),
        harness.target("rankings unequal to the local one", told["ranking"]["unequal"], 0),
        harness.target("change of a latency beside the other GPU's", abs(told["clocks"]["change"]), 0.03),
    ]
    return told | {"targets": reached}
