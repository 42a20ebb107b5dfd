"""Distillation of ResNet-50 with the rounding in it, on a GPU, beside a plain training step: ``qat.py gpu``.

All sides take the same frames from host memory in the same batches, with Adam, FP16 autocast and a scaled loss, and
clip the gradients. A step is from one loss that is known on the host to the next; medians. The network has random
weights and settled batch statistics: enough for time and memory.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_sections
import harness
import numpy as np

LR = 1e-4
LEAST_SHARE = 0.6
"""Of the throughput of a plain loop: of the same step, with teacher and loss alike; and of training with labels."""


def measure(steps: int, batch: int) -> dict[str, Any]:
    """Time every side; one row each, the share of the plain step's throughput, and what training reached."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        made = request(folder, steps, batch)
        rows, trained = [], {}
        for name, side in (
            ("plain training, FP16 autocast", lambda: _plain(made, steps, teach=False)),
            ("the same, channels last", lambda: _plain(made, steps, teach=False, channels_last=True)),
            ("plain distillation, FP16 autocast", lambda: _plain(made, steps, teach=True)),
        ):
            rows.append({"what": name, **timed(side, batch)})
        rows.append({"what": "edgeship qat: distillation, rounded", **timed(lambda: _ours(made, trained), batch)})
    for row in rows:
        row["share"] = row["images_s"] / rows[0]["images_s"]
    same = rows[-1]["images_s"] / rows[2]["images_s"]
    told = [
        harness.target(
            "edgeship qat / plain distillation (the same step), throughput", same, LEAST_SHARE, at_least=True
        ),
        harness.target("edgeship qat / plain training, throughput", rows[-1]["share"], LEAST_SHARE, at_least=True),
    ]
    return {"batch": batch, "steps": steps, "rows": rows, "trained": trained, "targets": told}


def _model() -> Any:
    from edgeship import config

    size = gpu_sections.SIZE
    return config.Model(
        source="resnet_random:build", inputs={"images": config.InputSpec(shape=("batch", 3, size, size))}
    )


def _pixels(count: int) -> np.ndarray:
    pixels = np.stack(list(itertools.islice(harness.crops(gpu_sections.SIZE), count))).transpose(0, 3, 1, 2)
    return (np.ascontiguousarray(pixels, np.float32) - 117.0) / 58.0


def _few(pixels: np.ndarray) -> list[Any]:
    return [((str(row),), {"images": pixels[row : row + 1]}) for row in range(8)]


def prepare(folder: Path) -> None:
    """Export the network and calibrate it on real frames."""
    from edgeship.prepare.calibrate import CalibrateOptions, calibrate
    from edgeship.prepare.export import export
    from edgeship.prepare.frame_checks import Batches
    from edgeship.prepare.slim import slim

    (folder / "resnet_random.py").write_text(gpu_sections.SOURCE)
    export(_model(), folder, folder / "model.onnx")
    slim(folder / "model.onnx", folder / "slim.onnx")
    options = CalibrateOptions(method="minmax", style="tensorrt", placement=False)
    calibrate(folder / "slim.onnx", Batches(_few(_pixels(8))), folder / "calib.cache", options)


def request(folder: Path, steps: int, batch: int) -> Any:
    """What ``edgeship qat`` gets in the folder that :func:`prepare` filled."""
    from edgeship import config
    from edgeship.data.frames import Frames
    from edgeship.data.loader import LoadOptions
    from edgeship.prepare import calibration_cache
    from edgeship.prepare.graph import inputs_of, load_onnx
    from edgeship.prepare.inputs import Known
    from edgeship.prepare.quantize import QuantizeOptions
    from edgeship.qat.qat import Request

    found = _pixels(9 * batch)
    names = tuple(map(str, range(len(found))))
    inputs = inputs_of(load_onnx(folder / "slim.onnx"))
    return Request(
        settings=config.Qat(steps=steps, batch=batch, lr=LR, device="cuda:0", amp=True),
        model=_model(),
        root=folder,
        preprocess=None,
        known=Known(),
        slim=folder / "slim.onnx",
        calibration=calibration_cache.load(folder / "calib.cache", calibration_cache.Expected()),
        quantization=QuantizeOptions("tensorrt", "int8", placement="default"),
        few=_few(found)[:2],
        frames=Frames(names, (), inputs, None, LoadOptions(batch), {"images": found}),
        holdout=0.11,
    )


def timed(side: Callable[[], list[float]], batch: int) -> dict[str, float]:
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    times = side()
    step = statistics.median(times)
    return {
        "step_ms": step * 1e3,
        "images_s": batch / step,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20,
        "whole_s": time.perf_counter() - begin,
    }


def _ours(request: Any, trained: dict[str, Any]) -> list[float]:
    """Seconds of each step of ``edgeship qat``, whole: graphs, training, looks, export, comparison."""
    from edgeship.qat.qat import qat

    stamps: dict[int, float] = {}

    def progress(step: int, _: int | None, what: str) -> None:
        if what.startswith("training, loss"):
            stamps[step] = time.perf_counter()

    folder = request.root / "trained"
    folder.mkdir()
    found = qat(request, folder, progress)
    names = ("rounded", "weighted", "deployed_snr_db", "held_out_before", "held_out_after", "seconds")
    trained |= {name: getattr(found, name) for name in names} | {"not_rounded": list(found.not_rounded)}
    return between(list(stamps.values()))


def _plain(request: Any, steps: int, *, teach: bool, channels_last: bool = False) -> list[float]:
    """Seconds of each step of a loop as it is written by hand, on torchvision's module."""
    import torch
    from torch import nn

    from edgeship.qat.batches import FrameBatches

    sys.path.insert(0, str(request.root))
    from resnet_random import build

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = build().cuda().to(memory_format=layout).train()
    teacher = build().cuda().to(memory_format=layout) if teach else None
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    scaler = torch.amp.GradScaler("cuda")
    labels = torch.randint(0, 1000, (request.frames.options.batch,), generator=torch.Generator().manual_seed(0)).cuda()
    stamps: list[float] = []
    for epoch in itertools.count():
        for (images,) in FrameBatches(request.frames, ("images",), 0).epoch(epoch):
            pixels = images.cuda().contiguous(memory_format=layout)
            with torch.autocast("cuda", torch.float16):
                found = model(pixels)
                if teacher is None:
                    loss = nn.functional.cross_entropy(found, labels)
                else:
                    with torch.no_grad():
                        wanted = teacher(pixels).float()
                    loss = nn.functional.mse_loss(found.float(), wanted) / wanted.var()
            float(loss.detach())
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            stamps.append(time.perf_counter())
            if len(stamps) == steps:
                return between(stamps)
    raise AssertionError


def between(stamps: list[float]) -> list[float]:
    """Seconds between steps, without those of the warm-up."""
    return [after - before for before, after in itertools.pairwise(stamps[5:])]
