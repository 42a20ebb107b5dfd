"""ONNX's own node tests through inspect, slim, preflight, parity and calibrate: what fails, what is refused and why.

    python benchmarks/onnx_suite.py [--every 10] [--workers 2] [--kept build/onnx_suite.jsonl --limit-s 800] [--json F]

Every graph runs in a worker process, so that a native crash is one failure and not the end. A failure is an exception
that is not one of edgeship's own, or the end of the worker; a refusal is one sentence. With ``--kept`` outcomes are
written as they come, and a second run goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from harness import facts, parser, record, table

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
    """Run what has no outcome yet, as long as there is time; the exit code says whether anything failed."""
    options = _options()
    before, begin = facts(), time.perf_counter()
    known = _kept(options.kept)
    asked = cases(options.every)
    outcomes = {case[0]: known[case[0]] for case in asked if case[0] in known}
    todo = deque(case for case in asked if case[0] not in known)
    lock = threading.Lock()

    def work() -> None:
        worker = Worker()
        while time.perf_counter() - begin < options.limit_s:
            with lock:
                case = todo.popleft() if todo else None
            if case is None:
                break
            found = worker.ask(case)
            with lock:
                outcomes[case[0]] = found
                if options.kept is not None:
                    with options.kept.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps([case[0], found]) + "\n")
        worker.stop()

    with ThreadPoolExecutor(options.workers) as pool:
        for done in [pool.submit(work) for _ in range(options.workers)]:
            done.result()
    left, outcomes = len(todo), dict(sorted(outcomes.items()))
    counts, reasons = summary(outcomes)
    for name, found in outcomes.items():
        for step, text in found.items():
            if text.startswith("FAILED"):
                print(f"{name} {step}: {text}", flush=True)
    print(f"{len(outcomes)} graphs of onnx's node suite, {left} left; {time.perf_counter() - begin:.0f} s")
    rows = [(step, count["ok"], count["refused"], count["FAILED"]) for step, count in counts.items()]
    print(table(("step", "ok", "refused in one sentence", "failed"), rows))
    record(options.json, before, graphs=len(outcomes), left=left, steps=counts, refused=reasons)
    return int(any(count["FAILED"] for count in counts.values()))


def summary(outcomes: dict[str, dict[str, str]]) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """By step: how many were ok, refused and failed; and why they were refused, names and numbers left out."""
    counts: dict[str, Counter[str]] = {}
    reasons: dict[str, Counter[str]] = {}
    for found in outcomes.values():
        for step, text in found.items():
            said, _, why = text.partition(": ")
            counts.setdefault(step, Counter())[said] += 1
            if said == "refused":
                reasons.setdefault(step, Counter())[_SPECIFIC.sub("…", why)[:100]] += 1
    return counts, {step: Counter(dict(count.most_common(12))) for step, count in reasons.items()}


_SPECIFIC = re.compile(r"'[^']*'|\S*/\S+|\[[^\]]*\]|\b\d+\b")


def _kept(path: Path | None) -> dict[str, dict[str, str]]:
    if path is None or not path.is_file():
        return {}
    return dict(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _options() -> argparse.Namespace:
    asked = parser(__doc__)
    asked.add_argument("--every", type=int, default=1, help="take every n-th case only")
    asked.add_argument("--workers", type=int, default=1, help="processes that share the graphs")
    asked.add_argument("--limit-s", type=float, default=3000.0, help="begin none after this many seconds")
    asked.add_argument("--kept", type=Path, help="file of the outcomes so far, a line each")
    return asked.parse_args()


if __name__ == "__main__":
    sys.exit(main())
