"""An independent clock: do a trial's quantiles agree with those of MLPerf's load generator on the same session?

    python benchmarks/loadgen.py [--rounds 24] [--packages DIR] [--json benchmarks/results/loadgen.json]

``mlcommons-loadgen`` issues every call and times it by its own clock, from the query to its completion: SingleStream
for one image (p50 and p90), MultiStream for a batch of eight (p99). Two questions, each to be answered within 3 %:

same calls  the timer that a trial uses runs inside the calls that the load generator issues, so both clocks see the
            very same calls. What differs: the clocks, what the load generator adds to a call, the rank of a quantile.
own calls   :func:`edgeship.trial.benchmark.benchmark` and the load generator measure in short turns of some hundred
            calls, each going first in every other round. On a machine that others disturb for a tenth of a second at a
            time, p90 and p99 of a turn say whether such a stretch fell into it: many turns, and the medians over them.

DIR holds what ``pip install --no-deps --target DIR mlcommons-loadgen`` puts there.
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
from edgeship.trial.benchmark import benchmark, quantiles

ALLOWED = 0.03
SIDE = 96
QUANTILES = {"p50": "50.00", "p90": "90.00", "p99": "99.00"}
SCENARIOS = {"SingleStream": (1, 200, ("p50", "p90")), "MultiStream": (8, 200, ("p99",))}
"""Scenario → rows of a call, calls of a turn, and the quantiles that it is reported by."""
LONGEST_S = {"SingleStream": 0.4, "MultiStream": 2.5}
"""Longest turn of ours: where calls are slow in stretches, a trial measures on for up to a minute, and its turn would
meet another machine than the load generator's few hundred calls."""
OURS, THEIRS, SAME = "edgeship", "loadgen", "edgeship, the load generator's calls"


def ours(runner: Runner, feeds: dict[str, np.ndarray], scenario: str) -> dict[str, float]:
    """Quantiles in milliseconds as a trial reports them, and how many calls they are of."""
    calls, longest = SCENARIOS[scenario][1], LONGEST_S[scenario]
    settings = Benchmark(warmup_s=0.2, min_s=0.1, max_s=longest, min_samples=calls, precision=0.5)
    found = benchmark(runner, feeds, settings).wall_ms
    return {name: float(getattr(found, name)) for name in QUANTILES} | {"calls": found.samples}


def theirs(
    runner: Runner, feeds: dict[str, np.ndarray], scenario: str, folder: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Quantiles in milliseconds by the load generator's summary, and by the trial's timer within the same calls."""
    import mlperf_loadgen as lg  # type: ignore[import-not-found]

    rows, calls, _ = SCENARIOS[scenario]
    timer = runner.timer(feeds)
    for _ in range(20):
        timer()
    timed: list[float] = []

    def issue(queries: Any) -> None:
        timed.append(timer().wall_ms)
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
    found = quantiles(timed)
    same = {name: float(getattr(found, name)) for name in QUANTILES}
    return {name: _nanoseconds(summary, written) / 1e6 for name, written in QUANTILES.items()}, same


def _nanoseconds(summary: str, quantile: str) -> float:
    found = re.search(rf"^{quantile} percentile latency \(ns\)\s*: (\d+)", summary, re.MULTILINE)
    if found is None:
        raise SystemExit(f"the load generator's summary has no {quantile} percentile:\n{summary[:2000]}")
    return float(found.group(1))


def compare(scenario: str, model: Path, rounds: int, scratch: Path) -> dict[str, Any]:
    """Every round of both sides, and what ours is of theirs: on the same calls, and each on its own."""
    rows, calls, names = SCENARIOS[scenario]
    feeds = {"images": np.random.default_rng(0).random((rows, 3, SIDE, SIDE), dtype=np.float32)}
    found: list[dict[str, dict[str, float]]] = []
    with engines.get("onnxruntime").open(model, OpenOptions(threads=1)) as runner:
        for number in range(rounds):
            one: dict[str, dict[str, float]] = {}
            for side in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
                if side == OURS:
                    one[OURS] = ours(runner, feeds, scenario)
                else:
                    one[THEIRS], one[SAME] = theirs(runner, feeds, scenario, scratch)
            found.append(one)
    middle = {
        side: {name: statistics.median(one[side][name] for one in found) for name in QUANTILES} for side in found[0]
    }
    same = {name: statistics.median(one[SAME][name] / one[THEIRS][name] for one in found) for name in names}
    own = {name: middle[OURS][name] / middle[THEIRS][name] for name in names}
    head = (f"{scenario}, batch {rows}", "edgeship ms", "loadgen ms", "own calls", "same calls")
    table = ((name, middle[OURS][name], middle[THEIRS][name], own[name], same[name]) for name in names)
    print(harness.table(head, table), flush=True)
    return {"batch": rows, "calls": calls, "rounds": found, "median_ms": middle, "same_calls": same, "ratio": own}


def main() -> None:
    """Measure, print, and record the run."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--packages", type=Path, help="where mlcommons-loadgen is, if it is not installed")
    given = parser.parse_args()
    if given.packages:
        sys.path.insert(0, str(given.packages))
    before = harness.facts()
    with tempfile.TemporaryDirectory() as name:
        model = models.chain(Path(name) / "chain.onnx", SIDE, width=32, depth=4)
        found = {scenario: compare(scenario, model, given.rounds, Path(name)) for scenario in SCENARIOS}
    targets = [
        harness.target(f"{scenario}, {name}: difference of the quantiles, {words}", abs(ratio - 1), ALLOWED)
        for scenario, one in found.items()
        for words, kind in (("same calls", "same_calls"), ("own calls", "ratio"))
        for name, ratio in one[kind].items()
    ]
    harness.record(given.json, before, scenarios=found, targets=targets)


if __name__ == "__main__":
    main()
