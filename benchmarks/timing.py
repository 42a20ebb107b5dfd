"""Do our medians agree with a bare loop over the session? Both measure in one process, turn by turn.

    python benchmarks/timing.py [--rounds 5] [--json benchmarks/results/timing.json]

Each round measures one network with :func:`edgeship.trial.benchmark.benchmark` (what a trial runs) and with a loop of
``time.perf_counter`` around ``session.run_with_iobinding``, which knows nothing of edgeship; which of them goes first
changes from round to round. The difference of the medians over all rounds must be at most 3 %.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeship import engines
from edgeship.config import Benchmark
from edgeship.engines import OpenOptions
from edgeship.trial.benchmark import benchmark

ALLOWED = 0.03


def network(path: Path, width: int, depth: int, size: int) -> None:
    """3x3 convolutions with ReLU: images [1, 3, size, size] → features."""
    random = np.random.default_rng(0)
    nodes, weights, current, channels = [], [], "images", 3
    for layer in range(depth):
        weight = random.standard_normal((width, channels, 3, 3)).astype(np.float32) * (2 / (9 * channels)) ** 0.5
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [current, f"w{layer}"], [f"c{layer}"], pads=[1] * 4, strides=[2, 2]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        current, channels = f"r{layer}", width
    shape = [1, width, size >> depth, size >> depth]
    graph = helper.make_graph(
        nodes,
        "timing",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def bare(path: Path, images: np.ndarray[Any, Any], calls: int) -> float:
    """Median of a loop of one's own in milliseconds."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("images", images)
    binding.bind_output(session.get_outputs()[0].name)
    for _ in range(20):
        session.run_with_iobinding(binding)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def ours(path: Path, images: np.ndarray[Any, Any], calls: int) -> float:
    """Median that a trial would report, in milliseconds."""
    settings = Benchmark(warmup_s=0.1, min_s=0.1, max_s=20, min_samples=calls, precision=0.5)
    with engines.get("onnxruntime").open(path, OpenOptions()) as runner:
        return benchmark(runner, {"images": images}, settings).wall_ms.p50


def compare(width: int, depth: int, size: int, rounds: int, calls: int) -> dict[str, Any]:
    """Medians over all rounds for one network."""
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    images = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        network(path, width, depth, size)
        for number in range(rounds):
            order = [("ours", ours), ("bare", bare)]
            for name, measure in order if number % 2 == 0 else order[::-1]:
                found[name].append(measure(path, images, calls))
    mine, theirs = statistics.median(found["ours"]), statistics.median(found["bare"])
    ratio = mine / theirs - 1
    print(f"{width}x{depth}x{size}: ours {mine:.3f} ms, bare loop {theirs:.3f} ms, {ratio:+.2%}")
    return {"network": [width, depth, size], **found, "ours_ms": mine, "bare_ms": theirs, "difference": ratio}


def main() -> None:
    """Measure, print, and record the run."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    before = harness.facts()
    rows = [compare(*shape, options.rounds, options.calls) for shape in ((32, 3, 128), (48, 4, 256), (64, 5, 512))]
    worst = max(abs(row["difference"]) for row in rows)
    targets = [harness.target("largest difference of the medians", worst, ALLOWED)]
    harness.record(options.json, before, networks=rows, targets=targets)


if __name__ == "__main__":
    main()
