"""ONNX's own node tests through inspect, slim, preflight, parity and calibrate: what fails, what is refused and why.

    python benchmarks/onnx_suite.py [--every 10] [--json suite.json]

Every graph runs in a worker process, so that a native crash is one failure and not the end. A failure is an exception
that is not one of edgeship's own, or the end of the worker; a refusal is one sentence.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

STEPS = ("inspect", "slim", "preflight", "parity", "calibrate")
LIMIT_S = 120.0


def cases(every: int = 1) -> list[tuple[str, bytes, list[Any]]]:
    """(name, serialized model, inputs) of the suite's node tests, every ``every``-th by name."""
    from onnx.backend.test.case.node import collect_testcases

    found = sorted(collect_testcases(None), key=lambda case: str(case.name))
    return [(case.name, case.model.SerializeToString(), list(case.data_sets[0][0])) for case in found[::every]]


def steps(model: Path, folder: Path, feeds: dict[str, np.ndarray] | None) -> dict[str, Callable[[], Any]]:
    """What is done with one graph, by name."""
    from edgeship import config
    from edgeship.engines.inspect import describe
    from edgeship.prepare.calibrate import CalibrateOptions, calibrate
    from edgeship.prepare.inputs import Known
    from edgeship.prepare.parity import Request, parity
    from edgeship.prepare.preflight import preflight
    from edgeship.prepare.slim import Options, slim

    settings, tolerances = config.Model(source=str(model)), config.Parity(seeds=1)
    images = [feeds] if feeds is not None else []
    rows = max((len(array) for array in (feeds or {}).values() if array.ndim), default=1)
    batch = [(tuple(f"case-{row}" for row in range(rows)), feeds)]
    return {
        "inspect": lambda: describe(model),
        "slim": lambda: slim(model, folder / "slim.onnx", Options(Known(feeds=feeds))),
        "preflight": lambda: preflight(model),
        "parity": lambda: parity(Request(settings, folder, model, model, tolerances, images)),
        "calibrate": lambda: calibrate(model, batch, folder / "c.cache", CalibrateOptions(method="minmax")),
    }


def judge(work: Callable[[], Any]) -> str:
    """``ok``, ``refused: …`` or ``FAILED: …``."""
    from edgeship.errors import EdgeshipError

    try:
        work()
    except EdgeshipError as error:
        return f"refused: {error.found.splitlines()[0][:200]}"
    except Exception as error:  # noqa: BLE001 - this is what is being counted
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"FAILED: {type(error).__name__}: {str(error)[:160]} ({Path(frame.filename).name}:{frame.lineno})"
    return "ok"


def run_case(name: str, data: bytes, inputs: Sequence[Any], folder: Path) -> dict[str, str]:
    """The outcome of every step for one graph of the suite, on the suite's own inputs."""
    import onnx

    model = folder / f"{name}.onnx"
    model.write_bytes(data)
    proto = onnx.ModelProto.FromString(data)
    arrays = [np.asarray(value) for value in inputs if isinstance(value, (np.ndarray, np.generic))]
    whole = len(arrays) == len(inputs) == len(proto.graph.input)
    feeds = dict(zip((value.name for value in proto.graph.input), arrays, strict=False)) if whole else None
    floats = feeds is not None and any(array.dtype.kind == "f" for array in feeds.values())
    todo = steps(model, folder, feeds)
    return {step: judge(work) for step, work in todo.items() if step != "calibrate" or floats}


def _worker(pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        while True:
            asked = pipe.recv()
            if asked is None:
                return
            pipe.send(run_case(*asked, Path(folder)))


class Worker:
    """A process that runs cases, started again when it dies or takes too long."""

    def __init__(self) -> None:
        self.process: Any = None

    def ask(self, case: tuple[str, bytes, list[Any]]) -> dict[str, str]:
        """The outcomes of one case."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_worker, args=(theirs,))
            self.process.start()
            theirs.close()
        self.pipe.send(case)
        try:
            if self.pipe.poll(LIMIT_S):
                answer: dict[str, str] = self.pipe.recv()
                return answer
            found = f"FAILED: did not end in {LIMIT_S:.0f} s"
        except EOFError:
            found = "FAILED: the process died"
        self.process.kill()
        self.process.join()
        self.process = None
        return {"process": found}

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.pipe.send(None)
            self.process.join()


def main() -> int:
    """Run the suite; the exit code says whether anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every n-th case only")
    parser.add_argument("--json", type=Path, help="write every outcome here")
    options = parser.parse_args()
    begin, worker = time.perf_counter(), Worker()
    outcomes = {}
    for case in cases(options.every):
        outcomes[case[0]] = worker.ask(case)
        for step, found in outcomes[case[0]].items():
            if found.startswith("FAILED"):
                print(f"{case[0]} {step}: {found}", flush=True)
    counts: dict[str, Counter[str]] = {step: Counter() for step in (*STEPS, "process")}
    for found in outcomes.values():
        for step, text in found.items():
            counts[step][text.partition(":")[0]] += 1
    worker.stop()
    print(f"{len(outcomes)} graphs of onnx's node suite, {time.perf_counter() - begin:.0f} s")
    print("| step | ok | refused in one sentence | failed |\n| --- | --- | --- | --- |")
    for step, count in counts.items():
        if count:
            print(f"| {step} | {count['ok']} | {count['refused']} | {count['FAILED']} |")
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=1) + "\n")
    return int(any(count["FAILED"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
