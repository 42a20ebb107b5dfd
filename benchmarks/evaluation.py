"""Evaluation: throughput beside the model's own, memory over many images, COCO metrics beside pycocotools.

    python benchmarks/evaluation.py [--quick] [--json benchmarks/results/evaluation.json]

throughput  images/s of ``edgeship evaluate`` on JPEG files over images/s of the same session alone on ready
            batches; the target is 0.9. Where the model takes all cores of a CPU, every millisecond that an image
            needs besides takes a core from it. What is left then is measured: as many processes as there are cores,
            each decoding eight images and inferring them with one thread, over and over, without any pipeline, record
            or wait (by_hand). No evaluation can be faster than that, or than the session alone; of_bound is the share
            of the smaller one that was reached. Beside it the milliseconds of a core that one image takes: of the
            model and of decoding, each alone on the machine, and of all the rest. Two cores that are threads of one
            take longer for both when both work, and threads that spin while they wait count too: both are in the rest.
decoding    milliseconds of a core for each step from a JPEG file to the network's input, and what libjpeg-turbo's
            scaled decoding (half the width and height, where that still is no smaller than the input) would change:
            time, and the input's values. It is not used: a camera's frame reaches the network without it.
memory      peak resident memory of a process that evaluates 100, 1,000 and 2,000 images of 1920x1080.
metrics     seconds from boxes to mAP over 5,000 images and 80 classes; the target is 2 s.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import harness
import models
import numpy as np
from PIL import Image

from edgeship import engines
from edgeship.config import Evaluation, Preprocess
from edgeship.data.copies import thumbnail
from edgeship.data.loader import Item, load
from edgeship.data.objects import Boxes
from edgeship.data.preprocess import normalise, open_image, place
from edgeship.decode.predictions import Detection
from edgeship.engines import OpenOptions
from edgeship.metrics import detection
from edgeship.trial.evaluate import evaluate

SIDE = 416
LETTERBOX = Preprocess(fit="letterbox")
CLASSES = tuple(f"class {number:02}" for number in range(80))
BATCH = 8


def photographs(folder: Path, count: int, size: tuple[int, int], distinct: int = 24) -> Evaluation:
    """``count`` JPEG files of random smooth scenes (``distinct`` different ones, the others are links), with boxes."""
    random = np.random.default_rng(1)
    width, height = size
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        path = folder / "images" / f"{number:05}.jpg"
        if number < distinct:
            coarse = Image.fromarray(random.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8))
            scene = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
            noisy = np.clip(scene + random.normal(0, 6, scene.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(path, quality=90)
        else:
            path.hardlink_to(folder / "images" / f"{number % distinct:05}.jpg")
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for _ in range(random.integers(1, 12)):
            x, y = random.uniform(0, width - 60), random.uniform(0, height - 60)
            w, h = random.uniform(10, 50, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(random.integers(0, 80)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    labels = folder / "coco.json"
    labels.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return Evaluation(
        task="detection", images=folder / "images", labels=labels, classes=CLASSES, decoder="nms", batch=BATCH
    )


CORES = len(os.sched_getaffinity(0))


def alone(model: Path, threads: int, seconds: float) -> tuple[float, float]:
    """Images/s of the session on one ready batch, and milliseconds of a core for each image."""
    feeds = {"images": np.random.default_rng(0).random((BATCH, 3, SIDE, SIDE), dtype=np.float32) * 255}
    with engines.get("onnxruntime").open(model, OpenOptions(threads=threads)) as runner:
        runner.infer(feeds)
        start, begun, calls = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds:
            runner.infer(feeds)
            calls += 1
        images = calls * BATCH
        return images / (time.perf_counter() - start), (time.process_time() - begun) / images * 1e3


def by_hand(place: str, model: str, begin: str, seconds: str) -> None:
    """In a process of its own, from ``begin`` of the clock on: print the images/s of decoding eight, then inferring."""
    items = [Item(path.name, path) for path in sorted(Path(place).iterdir())]
    batch = np.empty((BATCH, 3, SIDE, SIDE), dtype=np.float32)
    with engines.get("onnxruntime").open(Path(model), OpenOptions(threads=1)) as runner:
        runner.infer({"images": np.zeros_like(batch)})
        time.sleep(max(0.0, float(begin) - time.time()))
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < float(seconds):
            for row in range(BATCH):
                load(items[(images + row) % len(items)], LETTERBOX, (SIDE, SIDE), batch[row])
            runner.infer({"images": batch})
            images += BATCH
        print(json.dumps({"images_s": images / (time.perf_counter() - start)}))


def cores_give(pictures: Path, model: Path, seconds: float) -> float:
    """Images/s of all cores together, each on its own."""
    begin = time.time() + 4
    with ThreadPoolExecutor(CORES) as pool:
        arguments = (__file__, "--by-hand", pictures, model, begin, seconds)
        return sum(found["images_s"] for found in pool.map(lambda _: harness.child(*arguments), range(CORES)))


def throughput(folder: Path, *, quick: bool) -> list[dict[str, float | str]]:
    """Evaluation beside the bare session, for three costs of the model, on one core and on all."""
    rows: list[dict[str, float | str]] = []
    settings = photographs(folder / "coco-sized", 80 if quick else 400, (640, 480))
    pictures, seconds = folder / "coco-sized/images", 2 if quick else 4
    item = Item("probe", next(iter(pictures.iterdir())))
    start = time.process_time()
    for _ in range(40):
        load(item, LETTERBOX, (SIDE, SIDE))
    decode_ms = (time.process_time() - start) / 40 * 1e3
    for width, depth in ((32, 6), (64, 12), (96, 20)):
        model = models.chain(folder / f"chain-{width}-{depth}.onnx", SIDE, width, depth, "detections")
        hands = [cores_give(pictures, model, seconds)]
        for threads in (1, 0):
            limit = settings.model_copy(update={"limit": 40 if quick else 120 if width > 64 else 300})
            before, spent_before = alone(model, threads, seconds)
            with engines.get("onnxruntime").open(model, OpenOptions(threads=threads)) as runner:
                begun = time.process_time()
                found = evaluate(runner, limit, LETTERBOX, folder=folder)
                spent = (time.process_time() - begun) / found.images * 1e3
            after, spent_after = alone(model, threads, seconds)
            hands.append(cores_give(pictures, model, seconds))
            own, model_ms, given = (before + after) / 2, (spent_before + spent_after) / 2, sum(hands[-2:]) / 2
            rows.append(
                {
                    "model": f"{depth} convolutions of {width}",
                    "threads": "all" if threads == 0 else "1",
                    "model_core_ms": model_ms,
                    "decode_core_ms": decode_ms,
                    "rest_core_ms": spent - model_ms - decode_ms,
                    "model_images_per_s": own,
                    "by_hand_images_per_s": given,
                    "evaluate_images_per_s": found.images_per_s,
                    "ratio": found.images_per_s / own,
                    "of_bound": found.images_per_s / min(own, given),
                    "cores_in_use": found.images_per_s * spent / 1e3 / CORES,
                }
            )
    return rows


def decoding(folder: Path, *, quick: bool) -> list[dict[str, float | str | None]]:
    """Where the time of one image goes, and libjpeg-turbo's scaled decoding beside it."""
    rows: list[dict[str, float | str | None]] = []
    for size in ((640, 480), (1920, 1080)):
        name = f"{size[0]}x{size[1]}"
        photographs(folder / f"steps-{name}", 1, size, distinct=1)
        content = next((folder / f"steps-{name}/images").iterdir()).read_bytes()
        image = open_image(content)
        pixels, geometry = place(image, LETTERBOX, (SIDE, SIDE))
        out = np.empty((3, SIDE, SIDE), dtype=np.float32)
        small = round(size[0] * geometry.scale_x), round(size[1] * geometry.scale_y)

        def half(content: bytes = content, size: tuple[int, int] = size) -> Image.Image:
            opened = Image.open(io.BytesIO(content))
            opened.draft("RGB", (size[0] // 2, size[1] // 2))
            opened.load()
            return opened

        def resized(image: Image.Image, small: tuple[int, int] = small) -> np.ndarray:
            return np.asarray(image.resize(small, Image.Resampling.BILINEAR), dtype=np.float64)

        fits, halved = size[0] // 2 >= small[0], half()
        off = np.abs(resized(halved) - resized(image))
        steps: dict[str, Callable[[], object]] = {
            "read_ms": lambda: hashlib.sha256(content).hexdigest(),  # noqa: B023 - called in this turn
            "decode_ms": lambda: open_image(content),  # noqa: B023
            "place_ms": lambda: place(image, LETTERBOX, (SIDE, SIDE)),  # noqa: B023
            "values_ms": lambda: normalise(pixels, LETTERBOX, out),  # noqa: B023
            "small_picture_ms": lambda: thumbnail(out, channels_last=False),  # noqa: B023
            "scaled_decode_ms": half,
            "scaled_resize_ms": lambda: resized(halved),  # noqa: B023
        }
        found: dict[str, float | None] = {step: core_ms(call, 5 if quick else 40) for step, call in steps.items()}
        found |= {"scaled_off_by_mean": float(off.mean()), "scaled_off_by_most": float(off.max())}
        rows.append(
            {"jpeg": name, **{key: value if fits or "scaled" not in key else None for key, value in found.items()}}
        )
    return rows


def core_ms(call: Callable[[], object], rounds: int) -> float:
    """Milliseconds of a core for one call: the median of five turns."""
    call()
    turns = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(rounds):
            call()
        turns.append((time.process_time() - start) / rounds * 1e3)
    return sorted(turns)[2]


def peak_mib(folder: str, count: str) -> None:
    """In a process of its own: evaluate ``count`` images and print the peak resident memory."""
    place = Path(folder)
    labels = place / "hd/coco.json"
    settings = Evaluation(
        task="detection", images=place / "hd/images", labels=labels, classes=CLASSES, decoder="nms", limit=int(count)
    )
    with engines.get("onnxruntime").open(place / "small.onnx", OpenOptions()) as runner:
        found = evaluate(runner, settings, LETTERBOX, folder=Path(tempfile.mkdtemp(dir=place)))
    peak = harness.high_water_mib()
    print(json.dumps({"images": found.images, "peak_mib": peak, "seconds": found.seconds}))


def memory(folder: Path, *, quick: bool) -> list[dict[str, float]]:
    """Peak memory over growing numbers of 1920x1080 images."""
    counts = (50, 200) if quick else (100, 1000, 2000)
    photographs(folder / "hd", counts[-1], (1920, 1080))
    models.chain(folder / "small.onnx", SIDE, 8, 4, "detections")
    rows = []
    for count in counts:
        rows.append(harness.child(__file__, "--peak", folder, count))
    return rows


def crowd_of_detections(count: int) -> list[tuple[Boxes, Detection]]:
    """Images with up to 14 objects of up to three classes and 100 detections each: about COCO's density."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        objects = int(random.integers(0, 15))
        present = random.choice(80, size=3)
        corner = random.uniform(0, 400, (objects, 2))
        side = np.exp(random.uniform(np.log(8), np.log(220), (objects, 2)))
        boxes = np.concatenate([corner, corner + side], axis=1)
        labels = random.choice(present, objects)
        start = random.uniform(0, 400, (100, 2))
        made = np.concatenate([start, start + random.uniform(4, 200, (100, 2))], axis=1)
        kinds = np.where(np.arange(100) < 50, random.choice(present, 100), random.integers(0, 80, 100))
        scores = random.random(100) ** 4
        for index in range(min(2 * objects, 100)):
            which = index % objects
            made[index] = boxes[which] + random.normal(0, 0.08, 4) * np.tile(side[which], 2)
            kinds[index], scores[index] = labels[which], random.random()
        made[:, 2:] = np.maximum(made[:, 2:], made[:, :2] + 1)
        truth = Boxes(boxes, labels, random.random(objects) < 0.01, np.prod(side, axis=1) * 0.8)
        found.append((truth, Detection(made.astype(np.float32), scores.astype(np.float32), kinds, CLASSES)))
    return found


def coco_metrics(_folder: Path, *, quick: bool) -> list[dict[str, float]]:
    """Seconds from boxes to metrics: edgeship (records and summary), pycocotools (evaluate and accumulate)."""
    count = 500 if quick else 5000
    scenes = crowd_of_detections(count)
    start = time.perf_counter()
    collector = detection.collector(CLASSES, Evaluation(task="detection"))
    for truth, prediction in scenes:
        collector.add(prediction, truth)
    records = collector.records()
    matched = time.perf_counter()
    summary = detection.summarize(records)
    ours = time.perf_counter()
    theirs, stats = pycocotools_seconds(scenes)
    part = min(count, 1000)
    few = detection.collector(CLASSES, Evaluation(task="detection"))
    for truth, prediction in scenes[:part]:
        few.add(prediction, truth)
    weights = np.random.default_rng(0).multinomial(part, np.full(part, 1 / part), size=1000)
    begin = time.perf_counter()
    detection.resample(few.records(), weights, ["map"])
    row = {
        "images": count,
        "detections": len(records["det_score"]),
        "match_s": matched - start,
        "summarize_s": ours - matched,
        "edgeship_s": ours - start,
        "pycocotools_s": theirs,
        "ratio": theirs / (ours - start),
        "map_difference": abs(summary.metrics["map"] - stats[0]),
        "bootstrap_images": part,
        "bootstrap_1000_map_s": time.perf_counter() - begin,
    }
    return [row]


def pycocotools_seconds(scenes: list[tuple[Boxes, Detection]]) -> tuple[float, list[float]]:
    """Seconds of pycocotools from boxes in memory to its statistics, and the statistics."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for image, (truth, found) in enumerate(scenes):
        for box, label, crowd, area in zip(truth.boxes, truth.labels, truth.crowd, truth.area, strict=True):
            row = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "iscrowd": int(crowd)}
            annotations.append(row | {"bbox": [*box[:2], *(box[2:] - box[:2])], "area": float(area)})
        for box, label, score in zip(found.boxes.astype(float), found.labels, found.scores, strict=True):
            row = {"image_id": image, "category_id": int(label), "score": float(score)}
            results.append(row | {"bbox": [*box[:2], *(box[2:] - box[:2])]})
    with contextlib.redirect_stdout(io.StringIO()):
        truth_side = COCO()
        truth_side.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(scenes))],
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
            "annotations": annotations,
        }
        truth_side.createIndex()
        start = time.perf_counter()
        judge = COCOeval(truth_side, truth_side.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        seconds = time.perf_counter() - start
    return seconds, judge.stats.tolist()


PARTS = {"metrics": coco_metrics, "decoding": decoding, "throughput": throughput, "memory": memory}


def targets(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What was to be reached, beside what this run shows."""
    worst = min(row["ratio"] for row in results["throughput"])
    kept = min(row["of_bound"] for row in results["throughput"])
    peaks = [row["peak_mib"] for row in results["memory"]]
    return [
        harness.target("COCO metrics, seconds", results["metrics"][0]["edgeship_s"], 2.0),
        harness.target("throughput over the bare session, worst row", worst, 0.9, at_least=True),
        harness.target("throughput over what the cores give by hand, worst row", kept, 0.9, at_least=True),
        harness.target("peak memory at the most images over that at the fewest", peaks[-1] / peaks[0], 1.1),
    ]


def main() -> None:
    """Measure and print all parts."""
    parser = harness.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--peak", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("--by-hand", nargs=4, metavar=("PICTURES", "MODEL", "BEGIN", "SECONDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.by_hand:
        by_hand(*given.by_hand)
        return
    if given.peak:
        peak_mib(*given.peak)
        return
    before, results = harness.facts(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for part, measure in PARTS.items():
            results[part] = rows = measure(Path(scratch), quick=given.quick)
            print(f"\n{part}\n{harness.table(rows[0], (row.values() for row in rows))}", flush=True)
    harness.record(given.json, before, quick=given.quick, **results, targets=targets(results))


if __name__ == "__main__":
    main()
