"""Two GPUs of one host as two workers of a fleet: how much faster two are than one, and whether they disturb clocks.

Run by ``benchmarks/fleet.py gpus``. The same trials run on one worker and on both, in turn; a ranking runs on one
worker's threads and on both's, in turn; the latency of an engine is measured on one worker with the other one idle,
then with the other one measuring too, then idle again. Each part is told when it has to end, and does as many trials
and rounds as fit, at least one; what is known is recorded after every round, so that a run that was cut still tells
something.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
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
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Candidate, Trial, TrialSpec, trial_folder
from edgeship.targets import cluster
from edgeship.targets.cluster import Cluster, connected
from edgeship.targets.ranking import Hand, Ranking

NAMES = ("gpu0", "gpu1")
SIDE, WIDTH, DEPTH = 224, 64, 20
RANKED = (112, 32, 32)
"""Side, width and depth of the network that is ranked, on the processor."""
CLASSES = tuple(f"class{number}" for number in range(10))
ROUNDS = 3
"""At most, of each part."""
SHARES = {"evaluation": 0.5, "ranking": 0.7, "clocks": 1.0}
"""Each part ends when so much of the time is over."""
SMALL = 100
"""Fewer images try the script and measure nothing."""
Save = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Until:
    """When a part has to end, on the clock of ``time.monotonic``, and where it tells what it knows."""

    end: float
    save: Save

    def fits(self, seconds: float, times: int = 1) -> int:
        """How many things of so many seconds fit, at least one and at most ``times``."""
        return max(1, min(times, int((self.end - time.monotonic()) / max(seconds, 0.01))))

    def another(self, begin: float, done: int) -> bool:
        """Whether one more round fits, as long as those since ``begin`` were."""
        now = time.monotonic()
        return done < ROUNDS and now + (now - begin) / done < self.end


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
    return Ground(chain(root / "model.onnx", SIDE, 8 if count < SMALL else WIDTH, DEPTH), root / "val", device)


def run(trials: list[tuple[Target, Path]], progress: Progress = silent) -> tuple[float, list[Trial]]:
    """Seconds in which trials end, two at a time for each worker: one runs, one is sent or fetched."""
    places = sorted({target.host or "" for target, _ in trials})
    with ExitStack() as stack:
        hands = {place: stack.enter_context(ThreadPoolExecutor(2)) for place in places}
        begin = time.perf_counter()
        sent = [hands[target.host or ""].submit(cluster.run, target, place, progress) for target, place in trials]
        made = [future.result() for future in sent]
        seconds = time.perf_counter() - begin
    failed = next((item.failure for item in made if item.failure is not None), None)
    assert failed is None, failed
    return seconds, made


def evaluations(made: Ground, root: Path, until: Until) -> dict[str, Any]:
    """The same evaluations on one worker and spread over both, in turn; files and images are there already."""
    run([made.trial(root / f"warm-{name}", name, None) for name in NAMES])
    alone, _ = run([made.trial(root / "single", NAMES[0], None)])
    each = until.fits(2 * 3 * alone, 4)  # two rounds of `each` trials three times: two on one worker, one on both
    seconds: dict[str, list[float]] = {"one": [], "both": []}
    told: dict[str, Any] = {"trials": 2 * each, "trial_s": alone, "seconds": seconds}
    metrics, begin = set(), time.monotonic()
    for turn in range(ROUNDS):
        for side, names in (("one", NAMES[:1]), ("both", NAMES)):
            trials = [
                made.trial(root / f"{side}{turn}-{number}", names[number % len(names)], None)
                for number in range(2 * each)
            ]
            took, ended = run(trials)
            seconds[side].append(took)
            metrics |= {str(item.evaluation.metrics) for item in ended if item.evaluation is not None}
        told |= {"gain": _gain(seconds), "different_metrics": len(metrics)}
        until.save(told)
        if not until.another(begin, turn + 1):
            break
    return told


def _gain(seconds: dict[str, list[float]]) -> float:
    return statistics.median(seconds["one"]) / statistics.median(seconds["both"])


def rankings(opened: Cluster, root: Path, until: Until, *, small: bool) -> dict[str, Any]:
    """One ranking on the threads of one worker and on those of both, in turn; every answer the same as here."""
    side, width, depth = RANKED
    root.mkdir()
    frames = np.random.default_rng(0).random((4, 3, side, side), np.float32)
    feeds = [(tuple("0123"), {"images": frames})]
    model = onnx.load(chain(root / "ranked.onnx", side, 8 if small else width, depth))
    found = Simulator(model, None, feeds, RankOptions("fp16", frames=len(frames)))
    threads = min(MOST_WORKERS, max(1, cores() // 2))
    few = [[position % depth] for position in range(2 * threads)]
    with on_threads(found.switched, threads) as alone:
        list(alone(few[:threads]))
        begin = time.perf_counter()
        list(alone(few))
        once = time.perf_counter() - begin
        # A pass here, then 1.5 in each round: one on one worker, half a one on both. Whole turns of both workers.
        rounds = until.fits((1 + 1.5 * ROUNDS) * once, 40)
        sets = [[item % depth, (item // depth + item) % depth] for item in range(rounds * 2 * threads)]
        begin = time.perf_counter()
        wanted = list(alone(sets))
        here = time.perf_counter() - begin
    seen = opened.workers()
    hands = {
        side: [Hand(seen[name], threads) for name in names] for side, names in (("one", NAMES[:1]), ("both", NAMES))
    }
    ranking = Ranking(opened, found.switched, root, silent)
    for some in hands.values():
        list(ranking.measure(some, few))  # sent and opened
    seconds: dict[str, list[float]] = {"one": [], "both": []}
    told: dict[str, Any] = {"sets": len(sets), "threads_each": threads, "here_s": here, "seconds": seconds}
    unequal, start = 0, time.monotonic()
    for turn in range(ROUNDS):
        for kind, some in hands.items():
            begin = time.perf_counter()
            unequal += list(ranking.measure(some, sets)) != wanted
            seconds[kind].append(time.perf_counter() - begin)
            assert not any(hand.lost for hand in some), f"a worker was left out of the ranking on {kind}"
        told |= {"gain": _gain(seconds), "unequal": unequal}
        until.save(told)
        if not until.another(start, turn + 1):
            break
    ranking.end(hands["both"])
    return told


def clocks(made: Ground, root: Path, seconds: float, until: Until) -> dict[str, Any]:
    """Median latency on the first worker, in ms, with the second one idle and with it measuring all the while."""
    benchmark = Benchmark(warmup_s=1.0, min_s=seconds, max_s=seconds + 1, min_samples=50)
    begin = time.monotonic()
    _median_ms(made.trial(root / "warm", NAMES[0], benchmark))
    took = time.monotonic() - begin
    rounds = until.fits(2 * took + took / ROUNDS, ROUNDS)
    found: dict[str, list[float]] = {"alone": [], "beside": []}
    told: dict[str, Any] = {"ms": found}
    for turn in range(rounds // 2):
        found["alone"].append(_median_ms(made.trial(root / f"alone{turn}", NAMES[0], benchmark)))
    whole = (rounds + 0.5) * took + 1
    measuring, heard = threading.Event(), threading.Event()
    longer = benchmark.model_copy(update={"min_s": whole, "max_s": whole + 1})

    def hear(_done: int, _total: int | None, what: str) -> None:
        if what.endswith("measuring"):
            heard.set()

    other = made.trial(root / "other", NAMES[1], longer)
    beside = threading.Thread(target=lambda: (run([other], hear), measuring.set()))
    beside.start()
    assert heard.wait(60.0), "the other worker did not begin to measure"
    for turn in range(rounds):
        found["beside"].append(_median_ms(made.trial(root / f"beside{turn}", NAMES[0], benchmark)))
        until.save(told)
    told["other_measured_all_the_while"] = not measuring.is_set()
    beside.join()
    for turn in range(rounds // 2, rounds):
        found["alone"].append(_median_ms(made.trial(root / f"alone{turn}", NAMES[0], benchmark)))
    medians = {side: statistics.median(values) for side, values in found.items()}
    told["change"] = medians["beside"] / medians["alone"] - 1
    until.save(told)
    return told


def _median_ms(place: tuple[Target, Path]) -> float:
    """Of the device's time where the engine tells it."""
    _, (trial,) = run([place])
    assert trial.latency is not None
    return (trial.latency.device_ms or trial.latency.wall_ms).p50


def gpus(count: int, device: str, seconds: float, save: Save) -> dict[str, Any]:
    """All three within about so many seconds; ``count`` images for each evaluation. ``save`` takes what is known."""
    begin, told = time.monotonic(), dict[str, Any]()
    where = {name: Device(gpu=number if device != "cpu" else None) for number, name in enumerate(NAMES)}
    fleet = Fleet(models={}, matrix={}, devices=where)

    def until(part: str) -> Until:
        def keep(figures: dict[str, Any]) -> None:
            told[part] = figures
            print(f"{time.monotonic() - begin:6.1f} s  {part}: {figures}", flush=True)
            save(told | {"parts_s": time.monotonic() - begin})

        return Until(begin + SHARES[part] * seconds, keep)

    with tempfile.TemporaryDirectory() as name, scheduler(fleet) as access:
        root = Path(name)
        with workers(fleet, access, root / "workers") as made, connected(Cluster(access)) as opened:
            wait_until_there(opened, made, set(NAMES))
            ready = ground(root / "ground", count, device)
            small = count < SMALL
            evaluations(ready, root / "evaluations", until("evaluation"))
            rankings(opened, root / "ranking", until("ranking"), small=small)
            clocks(ready, root / "clocks", 0.5 if small else 2.0, until("clocks"))
    reached = [
        harness.target("evaluations on two GPUs over one", told["evaluation"]["gain"], 1.8, at_least=True),
        harness.target("a ranking on two workers over one", told["ranking"]["gain"], 1.8, at_least=True),
        harness.target("rankings unequal to the local one", told["ranking"]["unequal"], 0),
        harness.target("change of a latency beside the other GPU's", abs(told["clocks"]["change"]), 0.03),
    ]
    return told | {"seconds": time.monotonic() - begin, "targets": reached}
