"""Run graphs beside their float originals on whatever processor this process sees; print dB as JSON.

Run by test_other_processors.py, natively and under qemu-user. Loads no torch and no onnx.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edgeship import engines
from edgeship.config import Target
from edgeship.engines import BuildRequest, OpenOptions, processor
from edgeship.engines.ort.session import exact_session, library


def main(folder: Path) -> None:
    """For every NAME.npy: NAME.onnx in float, NAME.int8.onnx exactly, with onnxruntime's own setting, as an engine."""
    engine = engines.get("onnxruntime")
    found = {}
    for place in sorted(folder.glob(f"{sys.argv[3]}.npy")):
        name = place.stem
        feeds = {"x": np.load(place)}
        quantized = folder / f"{name}.int8.onnx"
        reference = exact_session(folder / f"{name}.onnx", level="none").run(None, feeds)
        native = library().InferenceSession(str(quantized), providers=["CPUExecutionProvider"])
        found[name] = {
            "exact": decibels(reference, exact_session(quantized, level="all").run(None, feeds)),
            "native": decibels(reference, native.run(None, feeds)),
        }
        with engine.open(quantized, OpenOptions()) as runner:
            found[name]["engine"] = decibels(reference, list(runner.infer(feeds).values()))
        narrow = folder / f"{name}.reduced.onnx"
        as_it_is = library().InferenceSession(str(narrow), providers=["CPUExecutionProvider"])
        found[name]["reduced"] = decibels(reference, exact_session(narrow, level="all").run(None, feeds))
        found[name]["reduced native"] = decibels(reference, as_it_is.run(None, feeds))
        if name == "gemm":
            built = Path(sys.argv[2]) / "engine.onnx"
            identity = engine.build(BuildRequest(quantized, built, "int8", Target())).identity
            with engine.open(built, OpenOptions(arithmetic=identity.arithmetic or "exact")) as runner:
                found[name]["built"] = decibels(reference, list(runner.infer(feeds).values()))
    print(json.dumps({"saturates": processor.saturates(), "flags": processor.instruction_sets(), "found": found}))


def decibels(wanted: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Signal-to-noise of all outputs together."""
    signal = sum(float((one.astype(np.float64) ** 2).sum()) for one in wanted)
    noise = sum(float(((one.astype(np.float64) - other) ** 2).sum()) for one, other in zip(wanted, found, strict=True))
    return 10 * float(np.log10(signal / max(noise, 1e-30)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
