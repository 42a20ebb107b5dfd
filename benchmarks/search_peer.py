"""NNCF's accuracy control on OpenVINO, for ``benchmarks/search.py peer``: run by an interpreter that has both.

Only edgeship's data and metrics are used here, so that scenes, preprocessing, decoding and mAP50 are the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino

from edgeship import metrics
from edgeship.config_file import load
from edgeship.data.datasets import open_dataset
from edgeship.data.frames import FrameChoice, frames, in_dtype
from edgeship.data.loader import Batch, Loader, LoadOptions
from edgeship.data.preprocess import image_input, input_size
from edgeship.decode.decoders import decode_predictions, head_classes
from edgeship.results import TensorInfo

DROP = 0.02


class TimeIsUp(Exception):
    """The time limit was reached inside NNCF."""


class Scenes:
    """Decoded scenes with their labels, and mAP50 of a compiled model over some of them."""

    def __init__(self, path: Path, info: TensorInfo, limit: int) -> None:
        loaded = load(path)
        assert loaded.preprocess is not None
        self.settings = loaded.evaluation
        dataset = open_dataset(self.settings)
        loader = Loader(
            dataset.items[:limit],
            in_dtype(loaded.preprocess, info),
            input_size(info, loaded.preprocess),
            LoadOptions(1),
        )
        self.batches: list[Batch] = list(loader)
        self._dataset = dataset
        self.name = info.name

    def map50(self, model: Any, items: Iterable[Batch]) -> float:
        """Of a compiled model; 0 where no scene of ``items`` shows an object: NNCF also asks for single scenes."""
        task, collector, dataset = metrics.get("detection"), None, self._dataset
        names = [output.get_any_name() for output in model.outputs]
        for batch in items:
            found = model({self.name: batch.array})
            outputs = {name: found[k] for k, name in enumerate(names)}
            if collector is None:
                dataset = dataset.fitted(head_classes("detection", self.settings.decoder, outputs, self.settings))
                collector = task.collector(dataset.classes, self.settings)
            predictions = decode_predictions(
                "detection", self.settings.decoder, outputs, batch.geometries, self.settings, dataset.classes
            )
            for prediction, target in zip(predictions, batch.targets, strict=True):
                collector.add(prediction, target)
        assert collector is not None
        return task.summarize(collector.records()).metrics.get("map50", 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("config", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--scenes", type=int, required=True)
    options = parser.parse_args()
    model = openvino.Core().read_model(options.model)
    source = model.inputs[0]
    info = TensorInfo(name=source.get_any_name(), shape=tuple(source.shape), dtype="float32")
    loaded = load(options.config)
    assert loaded.preprocess is not None
    image_input((info,), loaded.preprocess)
    scenes, others = Scenes(options.config, info, options.scenes), Scenes(options.other, info, options.scenes)
    assert loaded.calibration.images is not None
    calibration = [
        row[np.newaxis]
        for _, feeds in frames(loaded.calibration.images, loaded.preprocess, (info,), FrameChoice(64))
        for row in feeds[info.name]
    ]
    evaluations: list[tuple[int, float]] = []
    start = time.perf_counter()

    def validate(compiled: Any, items: Iterable[Batch]) -> tuple[float, None]:
        if time.perf_counter() - start > options.seconds:
            raise TimeIsUp
        chosen = list(items)
        value = scenes.map50(compiled, chosen)
        evaluations.append((len(chosen), value))
        return value, None

    found: dict[str, Any] = {
        "scenes": len(scenes.batches),
        "limit_s": options.seconds,
        "openvino": openvino.__version__,
        "nncf": nncf.__version__,
        "numpy": np.__version__,
    }
    compiled = openvino.compile_model(model, "CPU")
    found["fp32"] = scenes.map50(compiled, scenes.batches)
    found["fp32_other"] = others.map50(compiled, others.batches)
    start = time.perf_counter()
    frames_set = nncf.Dataset(calibration)
    plain = openvino.compile_model(nncf.quantize(model, frames_set, subset_size=len(calibration)), "CPU")
    found["plain"] = scenes.map50(plain, scenes.batches)
    found["plain_other"] = others.map50(plain, others.batches)
    found["plain_s"] = time.perf_counter() - start
    start = time.perf_counter()
    try:
        mixed = nncf.quantize_with_accuracy_control(
            model, frames_set, nncf.Dataset(scenes.batches), validation_fn=validate, max_drop=DROP,
            drop_type=nncf.DropType.ABSOLUTE, subset_size=len(calibration),
        )  # fmt: skip
        tuned = openvino.compile_model(mixed, "CPU")
        found["capped"] = False
        found["seconds"] = time.perf_counter() - start
        found["mixed"] = scenes.map50(tuned, scenes.batches)
        found["mixed_other"] = others.map50(tuned, others.batches)
    except TimeIsUp:
        found |= {"capped": True, "seconds": time.perf_counter() - start, "mixed": None, "mixed_other": None}
    found["evaluations"] = len(evaluations)
    found["images_evaluated"] = sum(count for count, _ in evaluations)
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
