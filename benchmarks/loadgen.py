"""An independent clock: do a trial's quantiles agree with those of MLPerf's load generator on the same session?

    python benchmarks/loadgen.py [--rounds 9] [--calls 200] [--packages DIR] [--json benchmarks/results/loadgen.json]

Each round measures one open session with :func:`edgeship.trial.benchmark.benchmark` and with ``mlcommons-loadgen``,
which issues every call and times it by its own clock: SingleStream for one image (p50 and p90), MultiStream for a batch
of eight (p99). Which of them goes first changes from round to round; the medians over rounds must agree within 3 %. DIR
holds what ``pip install --no-deps --target DIR mlcommons-loadgen`` puts there.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import models
import numpy as np

from edgeship import engines
from edgeship.config import Benchmark
from edgeship.engines import OpenOptions, Runner
from edgeship.trial.benchmark import benchmark

ALLOWED = 0.03
SIDE = 96
QUANTILES = {"p50": "50.00", "p90": "90.00", "p99": "99.00"}
SCENARIOS = {"SingleStream": (1, ("p50", "p90")), "MultiStream": (8, ("p99",))}
"""Scenario → rows of a call, and the quantiles that it is reported by."""


def ours(runner: Runner, feeds: dict[str, np.ndarray], calls: int) -> dict[str, float]:
    """Quantiles in milliseconds as a trial reports them."""
    settings = Benchmark(warmup_s=0.2, min_s=0.1, max_s=60, min_samples=calls, precision=0.5)
    found = benchmark(runner, feeds, settings).wall_ms
    return {name: float(getattr(found, name)) for name in QUANTILES}


def theirs(runner: Runner, feeds: dict[str, np.ndarray], calls: int, scenario: str, folder: Path) -> dict[str, float]:
    """Quantiles in milliseconds by the load generator's summary."""
    import mlperf_loadgen as lg  # type: ignore[import-not-found]

    rows = SCENARIOS[scenario][0]
    timer = runner.timer(feeds)
    for _ in range(20):
        timer()

    def issue(queries: Any) -> None:
        timer()
        lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0) for query in queries])

    settings = lg.TestSettings()
    settings.scenario, settings.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
    settings.min_query_count = settings.max_query_count = calls
    settings.min_duration_ms = 0
    settings.multi_stream_samples_per_query = rows
    logs = lg.LogSettings()
    logs.log_output.outdir, logs.log_output.copy_summary_to_stdout, logs.enable_trace = str(folder), False, False
    sut = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(64, 64, lambda _: None, lambda _: None)
    try:
        lg.StartTestWithLogSettings(sut, library, settings, logs)
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)
    summary = (folder / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    return {name: _nanoseconds(summary, written) / 1e6 for name, written in QUANTILES.items()}


def _nanoseconds(summary: str, quantile: str) -> float:
    found = re.search(rf"^{quantile} percentile latency \(ns\)\s*: (\d+)", summary, re.MULTILINE)
    if found is None:
        raise SystemExit(f"the load generator's summary has no {quantile} percentile:\n{summary[:2000]}")
    return float(found.group(1))


def compare(scenario: str, model: Path, rounds: int, calls: int, scratch: Path) -> dict[str, Any]:
    """Every round of both sides, and the ratios of their medians."""
    rows, names = SCENARIOS[scenario]
    feeds = {"images": np.random.default_rng(0).random((rows, 3, SIDE, SIDE), dtype=np.float32)}
    found: list[dict[str, dict[str, float]]] = []
    with engines.get("onnxruntime").open(model, OpenOptions(threads=1)) as runner:
        for number in range(rounds):
            sides = {
                "edgeship": lambda: ours(runner, feeds, calls),
                "loadgen": lambda: theirs(runner, feeds, calls, scenario, scratch),
            }
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            found.append({name: sides[name]() for name in order})
    middle = {
        side: {name: statistics.median(one[side][name] for one in found) for name in QUANTILES} for side in found[0]
    }
    ratio = {name: middle["edgeship"][name] / middle["loadgen"][name] for name in names}
    table = ((name, middle["edgeship"][name], middle["loadgen"][name], ratio[name]) for name in names)
    print(harness.table((f"{scenario}, batch {rows}", "edgeship ms", "loadgen ms", "ratio"), table), flush=True)
    return {"batch": rows, "rounds": found, "median_ms": middle, "ratio": ratio}


def main() -> None:
    """Measure, print, and record the run."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--packages", type=Path, help="where mlcommons-loadgen is, if it is not installed")
    given = parser.parse_args()
    if given.packages:
        sys.path.insert(0, str(given.packages))
    before = harness.facts()
    with tempfile.TemporaryDirectory() as name:
        model = models.chain(Path(name) / "chain.onnx", SIDE, width=32, depth=4)
        found = {scenario: compare(scenario, model, given.rounds, given.calls, Path(name)) for scenario in SCENARIOS}
    targets = [
        harness.target(f"{scenario}, {name}: difference of the quantiles", abs(ratio - 1), ALLOWED)
        for scenario, one in found.items()
        for name, ratio in one["ratio"].items()
    ]
    harness.record(given.json, before, scenarios=found, targets=targets)


if __name__ == "__main__":
    main()
