"""Plain INT8, each repair, distillation and training with labels on the same network: ``qat.py cpu``."""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import calibration_lite0
import harness
import int8_networks
import int8_numbers
import numpy as np
import qat_labels
import search
from int8_networks import EXAMPLES, Array, Network

FP32, PLAIN, DISTILLED, LABELLED = "FP32", "int8", "int8-qat, distilled", "int8-qat, with labels"
EXAMPLE = EXAMPLES / "qat"
EVERY = ("equalize", "bias-correct", "adaround", "equalize+adaround+bias-correct")
REPAIRS = {
    "example": EVERY,
    "yolox": ("bias-correct", "adaround", "adaround+bias-correct"),
    "lite0": EVERY,
    "vit": ("smooth", "bias-correct", "adaround", "smooth+adaround+bias-correct"),
}
"""YOLOX-Nano has SiLU behind every convolution: nothing there can be equalized."""
VISIBLE = 0.005
"""A loss of less says nothing about how much of it came back."""
COSTS = 3.0
"""Of calibration's time, what a repair may take."""
RECOVERS, SECONDS, HOUR = 0.8, 300.0, 3600.0
BATCH = 8
LITE0_EVERY = 3
"""Of its views: every row takes all of them one by one."""
FRAMES = {"yolox": 64, "lite0": 128}
"""To distil on, an eighth of them held out; calibration and repairs have those that they have everywhere."""
LONG: dict[str, dict[str, Any]] = {
    "yolox": {"steps": 40, "batch": 4, "lr": 2e-5},
    "lite0": {"steps": 60, "batch": 8, "lr": 2e-5},
}
"""``[qat]`` of the two larger networks: about ten minutes on two cores."""


@dataclass(frozen=True)
class Lesson:
    """What is trained: the PyTorch model, on which frames, by which ``[qat]``; ``own`` names labels to train on too."""

    model: Any
    root: Path
    settings: Any
    frames: Array
    own: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A network, calibrated."""

    network: Network
    per_channel: bool
    folder: Path
    calibration: Any
    seconds: float
    """That calibration took."""

    @property
    def batches(self) -> list[Any]:
        """The calibration frames."""
        return batches_of(self.network)

    def options(self) -> Any:
        """How INT8 is made; outputs that are noise are a figure here."""
        import onnx

        from edgeship.prepare.quantize import QuantizeOptions

        names = tuple(value.name for value in onnx.load(str(self.network.model)).graph.output)
        return QuantizeOptions(per_channel=self.per_channel, layers=False, allow_noise=names)


def measure(name: str, folder: Path, packages: Path) -> dict[str, Any]:
    """All rows of one network."""
    network, lesson = KINDS[name](folder, packages)
    case = calibrated(network, folder, per_channel=name != "example")
    wanted = int8_numbers.run(network, network.model, written=False)
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        FP32: lambda: _row(network, FP32, wanted, wanted),
        PLAIN: lambda: _judged(case, PLAIN, network.model, case.calibration, wanted) | {"seconds": case.seconds},
    }
    ways |= {f"int8-{entry}": partial(_repaired, case, entry, wanted) for entry in REPAIRS[name]}
    for what in (DISTILLED, LABELLED):
        if lesson is not None and (what == DISTILLED or lesson.own):
            ways[what] = partial(_trained, case, lesson, what, wanted)
    place = folder / "rows.json"
    known: list[dict[str, Any]] = json.loads(place.read_text()) if place.is_file() else []
    rows = [
        next((row for row in known if row["what"] == what), None) or _kept(place, make()) for what, make in ways.items()
    ]
    lost = rows[0]["score"] - rows[1]["score"]
    for row in rows[1:]:
        row.pop("changed", None)
        row["recovered"] = (row["score"] - rows[1]["score"]) / lost if lost >= VISIBLE else None
        print(network.name, row, file=sys.stderr, flush=True)
    return {
        "name": network.name, "figure": network.figure, "frames": len(network.frames), "images": len(network.images),
        "calibration_s": rows[1]["seconds"], "rows": rows,
    }  # fmt: skip


def _kept(place: Path, row: dict[str, Any]) -> dict[str, Any]:
    """The row, written down: a run that was stopped goes on behind it."""
    known = json.loads(place.read_text()) if place.is_file() else []
    place.write_text(json.dumps([*known, row], default=float))
    return row


def targets(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked for, with what was seen."""
    told = []
    for network in found.values():
        for row in network["rows"]:
            if row["what"].startswith("int8-qat") and row["recovered"] is not None:
                limit = SECONDS if network["name"].startswith("examples/qat") else HOUR
                what = f"{network['name']}, {row['what']}"
                told.append(harness.target(f"{what}: share recovered", row["recovered"], RECOVERS, at_least=True))
                told.append(harness.target(f"{what}: seconds", row["seconds"], limit))
            elif row["what"].startswith("int8-") and not row["what"].startswith("int8-qat"):
                ratio = row["seconds"] / network["calibration_s"]
                told.append(harness.target(f"{network['name']}, {row['what']}: seconds / calibration's", ratio, COSTS))
    return told


def example(folder: Path, _: Path) -> tuple[Network, Lesson]:
    """The network of examples/qat, judged on the labelled pictures that no row trains on."""
    from edgeship.config_file import load

    loaded = load(EXAMPLE / "edgeship.toml")
    images, labels, frames = int8_networks.clothes()
    score = int8_networks.top1(labels[qat_labels.TRAINED_ON :])
    name = "examples/qat, one scale a weight"
    path = _graph(loaded.model, EXAMPLE, folder)
    network = Network(name, "top-1", path, frames, images[qat_labels.TRAINED_ON :], score)
    return network, Lesson(loaded.model, EXAMPLE, loaded.qat, frames, qat_labels.SETTINGS)


def lite0(folder: Path, packages: Path) -> tuple[Network, Lesson]:
    """EfficientNet-Lite0, distilled on more crops of the photographs that it is calibrated on."""
    from edgeship.config import Model

    network = int8_networks.lite0(folder, packages)
    preprocess, data = calibration_lite0.preprocessing(), importlib.import_module("data")
    frames = np.concatenate(
        [preprocess(pixels) for pixels, _, _ in itertools.islice(data.frames(), 0, None, 256 // FRAMES["lite0"])]
    )
    inputs = {"images": {"shape": ["batch", 3, *calibration_lite0.SIZE]}}
    model = Model.model_validate({"source": "model:build", "inputs": inputs})
    fewer = replace(network, images=network.images[::LITE0_EVERY], member=_every(network.member))
    return fewer, Lesson(model, calibration_lite0.EXAMPLE, _settings("lite0"), frames, {})


def _every(member: Array | None) -> Array | None:
    return None if member is None else member[::LITE0_EVERY]


def yolox(folder: Path, packages: Path) -> tuple[Network, Lesson]:
    """YOLOX-Nano as PyTorch, distilled on more scenes that are composed as those that it is calibrated on."""
    from edgeship.config import Model
    from edgeship.config_file import load
    from edgeship.data.frames import FrameChoice, frames
    from edgeship.results import TensorInfo

    network = int8_networks.yolox(folder, packages)
    place = folder / "yolox_nano"
    search.script(
        place, packages, "make_scenes.py", "--count", "1", "--frames", str(FRAMES["yolox"]), "--output", "more"
    )
    info = TensorInfo(name="images", shape=("batch", 3, 416, 416), dtype="float32")
    steps = load(place / "edgeship.toml").preprocess
    found = [
        feeds["images"] for _, feeds in frames(place / "more" / "calib", steps, (info,), FrameChoice(FRAMES["yolox"]))
    ]
    shutil.copy(harness.HERE / "onnx_module.py", place)
    shutil.copy(place / "yolox_nano.onnx", place / "network.onnx")
    inputs = {"images": {"shape": ["batch", 3, 416, 416]}}
    model = Model.model_validate({"source": "onnx_module:build", "inputs": inputs})
    path = _graph(model, place, folder)
    return replace(network, model=path), Lesson(model, place, _settings("yolox"), np.concatenate(found), {})


def other(name: str) -> Any:
    """One that is repaired alone."""
    return lambda folder, packages: (int8_networks.build(name, folder, packages), None)


KINDS: dict[str, Any] = {"example": example, "yolox": yolox, "lite0": lite0, "vit": other("vit")}


def _settings(name: str) -> Any:
    from edgeship.config import Qat

    return Qat.model_validate(LONG[name])


def _graph(model: Any, root: Path, folder: Path) -> Path:
    """The simplified graph of a ``[model]`` table."""
    from edgeship.prepare.export import export
    from edgeship.prepare.slim import slim

    export(model, root, folder / "model.onnx")
    slim(folder / "model.onnx", folder / "slim.onnx")
    return folder / "slim.onnx"


def batches_of(network: Network) -> list[Any]:
    """The calibration frames in batches; one by one where the graph's batch is fixed."""
    import onnx

    size = BATCH if onnx.load(str(network.model)).graph.input[0].type.tensor_type.shape.dim[0].dim_param else 1
    starts = range(0, len(network.frames), size)
    parts = [(start, network.frames[start : start + size]) for start in starts]
    return [(tuple(str(start + row) for row in range(len(part))), {network.input: part}) for start, part in parts]


def calibrated(network: Network, folder: Path, *, per_channel: bool) -> Case:
    """Calibrate as ``ship`` does by default."""
    from edgeship.prepare import calibration_cache
    from edgeship.prepare.calibrate import CalibrateOptions, calibrate
    from edgeship.prepare.frame_checks import Batches

    start = time.perf_counter()
    calibrate(network.model, Batches(batches_of(network)), folder / "plain.cache", CalibrateOptions())
    seconds = time.perf_counter() - start
    loaded = calibration_cache.load(folder / "plain.cache", calibration_cache.Expected())
    return Case(network, per_channel, folder, loaded, seconds)


def _judged(case: Case, what: str, graph: Path, calibration: Any, wanted: list[Array]) -> dict[str, Any]:
    """The INT8 graph of an FP32 graph and ranges, on the other images."""
    from edgeship.prepare.quantize import quantize

    out = case.folder / "int8.onnx"
    quantize(graph, calibration, out, case.batches[:2], case.options())
    return _row(case.network, what, int8_numbers.run(case.network, out, written=False), wanted)


def _row(network: Network, what: str, found: list[Array], wanted: list[Array]) -> dict[str, Any]:
    """The figures of one candidate, its own among them."""
    score = network.score(found, wanted).of(len(network.images))
    return int8_numbers.row(what, score, found, wanted)


def _repaired(case: Case, entry: str, wanted: list[Array]) -> dict[str, Any]:
    from edgeship.prepare import calibration_cache
    from edgeship.prepare.calibrate import CalibrateOptions
    from edgeship.prepare.frame_checks import Batches
    from edgeship.repair.repair import CACHE, Request, repair
    from edgeship.results.trial_folder import MODEL

    place = case.folder / entry
    place.mkdir(exist_ok=True)
    limit = 96  # frames, as in ship
    method = case.calibration.method
    request = Request(
        steps=tuple(entry.split("+")),
        model=case.network.model,
        calibration=case.calibration,
        frames=Batches(case.batches[: max(1, limit // len(case.batches[0][0]))]),
        all_frames=Batches(case.batches),
        calibrate=CalibrateOptions(method=method, placement=False),
        quantization=case.options(),
    )
    done = repair(request, place)
    ranges = calibration_cache.load(place / CACHE, calibration_cache.Expected())
    row = _judged(case, f"int8-{entry}", place / MODEL, ranges, wanted)
    return row | {
        "seconds": done.seconds, "changed": done.changed, "kept": done.improved,
        "held_out_db": [done.before_db, done.after_db], "notes": list(done.notes),
    }  # fmt: skip


def _trained(case: Case, lesson: Lesson, what: str, wanted: list[Array]) -> dict[str, Any]:
    from edgeship.data.frames import Frames
    from edgeship.data.loader import LoadOptions
    from edgeship.prepare import calibration_cache
    from edgeship.prepare.graph import inputs_of, load_onnx
    from edgeship.prepare.inputs import Known
    from edgeship.qat.qat import Request, qat

    settings = lesson.settings
    if what == LABELLED:
        settings = settings.model_copy(update={"epochs": None, **lesson.own})
    place = case.folder / what
    place.mkdir(exist_ok=True)
    names = tuple(map(str, range(len(lesson.frames))))
    request = Request(
        settings=settings,
        model=lesson.model,
        root=lesson.root,
        preprocess=None,
        known=Known(),
        slim=case.network.model,
        calibration=case.calibration,
        quantization=replace(case.options(), rows=BATCH),
        few=case.batches[:2],
        frames=Frames(
            names,
            (),
            inputs_of(load_onnx(case.network.model)),
            None,
            LoadOptions(settings.batch),
            {case.network.input: lesson.frames},
        ),
        holdout=0.125,
    )
    done = qat(request, place)
    ranges = calibration_cache.load(place / done.cache.path, calibration_cache.Expected())
    row = _judged(case, what, place / done.model.path, ranges, wanted)
    return row | {
        "seconds": done.seconds, "steps": done.steps, "best_step": done.best_step,
        "held_out": [done.held_out_before, done.held_out_after], "deployed_snr_db": done.deployed_snr_db,
        "curve": [point.model_dump() for point in done.curve],
    }  # fmt: skip
