"""Plain INT8, each repair, distillation and training with labels on the same network: ``qat.py cpu``."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import harness
import int8_networks
import int8_numbers
import qat_labels
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
RECOVERS, SECONDS = 0.8, 300.0
BATCH = 8
LITE0_EVERY = 3
"""Of its views: every row takes all of them one by one."""


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
    network = example(folder) if name == "example" else int8_networks.build(name, folder, packages)
    if name == "lite0":
        network = replace(network, images=network.images[::LITE0_EVERY])
    case = calibrated(network, folder, per_channel=name != "example")
    wanted = int8_numbers.run(network, network.model, written=False)
    rows = [_row(network, FP32, wanted, wanted)]
    rows.append(_judged(case, PLAIN, network.model, case.calibration, wanted) | {"seconds": case.seconds})
    for entry in REPAIRS[name]:
        rows.append(_repaired(case, entry, wanted))
    if name == "example":
        rows += [_trained(case, what, wanted) for what in (DISTILLED, LABELLED)]
    lost = rows[0]["score"] - rows[1]["score"]
    for row in rows[1:]:
        row["recovered"] = (row["score"] - rows[1]["score"]) / lost if lost >= VISIBLE else None
        print(network.name, row, file=sys.stderr, flush=True)
    return {
        "name": network.name, "figure": network.figure, "frames": len(network.frames), "images": len(network.images),
        "calibration_s": case.seconds, "rows": rows,
    }  # fmt: skip


def targets(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked for, with what was seen."""
    told = []
    for network in found.values():
        for row in network["rows"]:
            if row["what"].startswith("int8-qat"):
                what = f"{network['name']}, {row['what']}"
                told.append(harness.target(f"{what}: share recovered", row["recovered"], RECOVERS, at_least=True))
                told.append(harness.target(f"{what}: seconds", row["seconds"], SECONDS))
            elif row["what"].startswith("int8-"):
                ratio = row["seconds"] / network["calibration_s"]
                told.append(harness.target(f"{network['name']}, {row['what']}: seconds / calibration's", ratio, COSTS))
    return told


def example(folder: Path) -> Network:
    """The network of examples/qat, judged on the labelled pictures that no row trains on."""
    from edgeship.prepare.export import export
    from edgeship.prepare.slim import slim

    export(model(), EXAMPLE, folder / "model.onnx")
    slim(folder / "model.onnx", folder / "slim.onnx")
    images, labels, frames = int8_networks.clothes()
    score = int8_networks.top1(labels[qat_labels.TRAINED_ON :])
    name = "examples/qat, one scale a weight"
    return Network(name, "top-1", folder / "slim.onnx", frames, images[qat_labels.TRAINED_ON :], score)


def model() -> Any:
    """The ``[model]`` table of the example."""
    from edgeship.config_file import load

    return load(EXAMPLE / "edgeship.toml").model


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
    place.mkdir()
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


def _trained(case: Case, what: str, wanted: list[Array]) -> dict[str, Any]:
    from edgeship.config_file import load
    from edgeship.data.frames import Frames
    from edgeship.data.loader import LoadOptions
    from edgeship.prepare import calibration_cache
    from edgeship.prepare.graph import inputs_of, load_onnx
    from edgeship.prepare.inputs import Known
    from edgeship.qat.qat import Request, qat

    settings = load(EXAMPLE / "edgeship.toml").qat
    assert settings is not None
    if what == LABELLED:
        steps = (settings.epochs or 1) * (len(case.network.frames) * 7 // 8 // settings.batch)  # as many as distilled
        named = {"step": "step", "data": "loader", "validation": "held_out"}
        own = {key: f"qat_labels:{name}" for key, name in named.items()} | {"epochs": None, "steps": steps}
        settings = settings.model_copy(update=own)
    place = case.folder / what
    place.mkdir()
    frames = case.network.frames
    names = tuple(map(str, range(len(frames))))
    request = Request(
        settings=settings,
        model=model(),
        root=EXAMPLE,
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
            {case.network.input: frames},
        ),
        holdout=0.125,
    )
    done = qat(request, place)
    ranges = calibration_cache.load(place / done.cache.path, calibration_cache.Expected())
    row = _judged(case, what, place / done.model.path, ranges, wanted)
    return row | {
        "seconds": done.seconds, "steps": done.steps, "best_step": done.best_step,
        "held_out": [done.held_out_before, done.held_out_after], "deployed_snr_db": done.deployed_snr_db,
    }  # fmt: skip
