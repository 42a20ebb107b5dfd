"""How time and memory grow with images, classes, nodes and candidates: measured slopes in one table.

    python benchmarks/scale.py [--most 100000] [--json benchmarks/results/scale.json]

images      ``evaluate`` of a small classifier over that many PNG files, in a process of its own, with its peak memory
classes     the metrics of 2,000 images with so many classes, and 200 resamples of them
nodes       shape inference, the choice of what is quantized, and the INT8 graph for onnxruntime, of that many nodes
candidates  the gate over so many candidates of 2,000 images

A slope is the power of the size by which the figure grows between its last two sizes: 1 is in proportion.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import models
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeship import engines, metrics
from edgeship.config import Evaluation, Gate, Preprocess
from edgeship.decide.gate import judge
from edgeship.decide.loaded_trial import Measured
from edgeship.engines import OpenOptions
from edgeship.results import Audit, Candidate, Evaluated, Trial
from edgeship.trial.evaluate import evaluate

SIDE, DISTINCT = 32, 24
CLASSES = tuple(f"class {number}" for number in range(10))
PREPROCESS = Preprocess(fit="stretch", std=(255.0,))


def picture_files(folder: Path, count: int) -> Evaluation:
    """``count`` small PNG files (``DISTINCT`` different ones, the others are links), and their labels."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = ["image,label"]
    for number in range(count):
        path = folder / "images" / f"{number:06}.png"
        if number < DISTINCT:
            Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        else:
            path.hardlink_to(folder / "images" / f"{number % DISTINCT:06}.png")
        lines.append(f"{path.name},{number % len(CLASSES)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return Evaluation(
        task="classification", images=folder / "images", labels=folder / "labels.csv", classes=CLASSES, batch=8
    )


def child(folder: Path, count: int) -> dict[str, float]:
    """In a process of its own: evaluate ``count`` images."""
    settings = picture_files(folder / str(count), count)
    with engines.get("onnxruntime").open(folder / "small.onnx", OpenOptions()) as runner:
        start = time.perf_counter()
        found = evaluate(runner, settings, PREPROCESS, folder=Path(tempfile.mkdtemp(dir=folder)))
        seconds = time.perf_counter() - start
    assert found.images == count
    return {"size": count, "seconds": seconds, "peak_mib": harness.high_water_mib()}


def images(folder: Path, most: int) -> list[dict[str, float]]:
    """Evaluation over growing numbers of images."""
    models.chain(folder / "small.onnx", SIDE, 8, 2)
    return [harness.child(__file__, "--child", folder, size) for size in (100, 1000, 10_000, 100_000) if size <= most]


def answers(count: int, classes: int, wrong: float, seed: int) -> dict[str, Any]:
    """Classification records of ``count`` images, a share of them ``wrong``."""
    random = np.random.default_rng(seed)
    label = np.arange(count, dtype=np.int32) % classes
    first = np.where(random.random(count) < wrong, (label + 1) % classes, label)
    return {
        "task": np.array("classification"),
        "classes": np.array([f"class {number}" for number in range(classes)]),
        "label": label,
        "top": np.stack([(first + step) % classes for step in range(5)], axis=1).astype(np.int32),
        "score": random.random(count).astype(np.float32),
        "ids": np.array([str(number) for number in range(count)]),
        "digests": np.array([str(number) for number in range(count)]),
    }


def classes(_folder: Path, _most: int) -> list[dict[str, float]]:
    """Metrics over growing numbers of classes."""
    task, rows = metrics.get("classification"), []
    for size in (10, 100, 1000):
        records = answers(2000, size, 0.2, 0)
        weights = np.random.default_rng(0).multinomial(2000, np.full(2000, 1 / 2000), size=200)
        start = time.perf_counter()
        task.summarize(records)
        task.resample(records, weights, ["top1", "recall"])
        rows.append({"size": size, "seconds": time.perf_counter() - start})
    return rows


def nodes(_folder: Path, _most: int) -> list[dict[str, float]]:
    """The INT8 graph of chains of growing length."""
    from edgeship.prepare.calibration_cache import CalibrationCache
    from edgeship.prepare.float_nodes import float_nodes
    from edgeship.prepare.inferred_graph import infer
    from edgeship.prepare.methods import scales_of
    from edgeship.prepare.qdq_onnxruntime import ort_graph
    from edgeship.prepare.quantized_tensors import find_tensors
    from edgeship.results import TensorRange

    rows = []
    for size in (100, 1000, 10_000):
        model = convolutions(size // 2)
        start = time.perf_counter()
        inferred = infer(model)
        touched = find_tensors(inferred)
        one = TensorRange(low=-1.0, high=1.0, amax={"minmax": 1.0}, bounds={"minmax": (-1.0, 1.0)})
        ranges = dict.fromkeys(touched.observed, one)
        cache = CalibrationCache(Path("chain"), scales_of(ranges, touched, "minmax"), ranges, "minmax")
        ort_graph(inferred, cache, float_nodes(inferred))
        rows.append({"size": size, "seconds": time.perf_counter() - start})
    return rows


def convolutions(count: int) -> onnx.ModelProto:
    """1x1 convolutions with ReLU, four channels: two nodes each."""
    value = np.full((4, 4, 1, 1), 0.5, np.float32)
    weights = [numpy_helper.from_array(value, f"w{number}") for number in range(count)]
    made, last = [], "x"
    for number in range(count):
        made.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], f"conv{number}"))
        made.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], f"relu{number}"))
        last = f"r{number}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8, 8]) for name in ("x", last)]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def candidates(_folder: Path, _most: int) -> list[dict[str, float]]:
    """The gate over growing numbers of candidates."""
    rows = []
    gate = Gate(max_drop={"top1": 0.05, "recall": 0.05}, critical={"class 1": 0.2}, min_agreement=0.5)
    for size in (1, 10, 100):
        trials = [trial(f"plan{number}", number) for number in range(size + 1)]
        start = time.perf_counter()
        judge(gate, trials[1:], trials[0])
        rows.append({"size": size, "seconds": time.perf_counter() - start})
    return rows


def trial(name: str, seed: int) -> Measured:
    """A trial of 2,000 images and ten classes."""
    records = answers(2000, 10, 0.2, seed)
    found = metrics.get("classification").summarize(records)
    evaluation = Evaluated(
        task="classification", images=2000, images_sha256="", metrics=found.metrics, per_class=found.per_class,
        examples=found.examples, seconds=1, images_per_s=1,
    )  # fmt: skip
    facts = Trial(
        candidate=Candidate(name=name, precision="int8"), engine="onnxruntime", device="cpu",
        audit=Audit(source="engine", asked="int8", layers={}, achieved=1.0), evaluation=evaluation,
    )  # fmt: skip
    return Measured(facts, records=records)


PARTS = {"images": images, "classes": classes, "nodes": nodes, "candidates": candidates}


def slope(rows: list[dict[str, float]], key: str) -> float:
    """By which power of the size a figure grew between its last two sizes."""
    before, after = rows[-2:]
    return math.log(after[key] / before[key]) / math.log(after["size"] / before["size"])


def main() -> None:
    """Measure, print, and record the run."""
    parser = harness.parser(__doc__)
    parser.add_argument("--most", type=int, default=100_000, help="images")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(Path(given.child[0]), int(given.child[1]))))
        return
    before = harness.facts()
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: measure(Path(scratch), given.most) for name, measure in PARTS.items()}
    slopes = {name: slope(rows, "seconds") for name, rows in found.items()}
    peaks = {int(row["size"]): row["peak_mib"] for row in found["images"]}
    lines = [
        (name, ", ".join(f"{row['size']:,}: {row['seconds']:.3g}" for row in rows), slopes[name])
        for name, rows in found.items()
    ]
    print(harness.table(("grows with", "seconds", "slope"), lines))
    print("peak MiB by images: " + ", ".join(f"{size:,}: {peak:.0f}" for size, peak in peaks.items()))
    targets = [harness.target(f"time by {name}: slope", value, 1.1) for name, value in slopes.items()]
    most = max(peaks)
    what = f"peak memory of {most:,} images on {len(os.sched_getaffinity(0))} cores, MiB"
    targets.append(harness.target(what, peaks[most], 1000.0))
    harness.record(given.json, before, sizes=found, slopes=slopes, targets=targets)


if __name__ == "__main__":
    main()
