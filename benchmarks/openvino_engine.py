"""Examples on OpenVINO beside onnxruntime: their verdicts, and what INT8 costs through edgeship over OpenVINO's API.

    python benchmarks/openvino_engine.py [--packages DIR] [--rounds 1000] [--json FILE]

Each example ships twice from one export and one calibration, on onnxruntime and on OpenVINO. A candidate whose graph is
the same file on both is to be judged alike. Then the INT8 engine of the OpenVINO run is timed in one process, one call
of each side a round, each round in another order:

- ``bound``: OpenVINO's request with its inputs set once, ``start_async`` and ``wait``; ``timer`` is edgeship's, whose
  times the verdict reports
- ``called``: OpenVINO's compiled network called with an array, its outputs copied, as users write it; ``infer`` is
  edgeship's runtime call: names, dtypes and shapes checked, fresh arrays returned

OpenVINO's own network is compiled with what the engine file asks for: the shapes, FP32 for the rest, one stream.
Latency budgets are set aside, so that a verdict is about accuracy on a busy machine too, and limits are those that the
example's images can show (``LIMITS``).

(The file is not called openvino.py: scripts beside it would then import it instead of OpenVINO.)
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import openvino

from edgeship import engines
from edgeship.engines import OpenOptions
from edgeship.engines.openvino.plan import read_file

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ENGINES = ("onnxruntime", "openvino")
BUDGETS = (("latency_p50_ms = 33.0", "latency_p50_ms = 5000.0"), ("latency_p99_ms = 200.0\n", ""))
LIMITS = {
    "segmentation": ("critical = { bag = 0.03 }", "critical = { bag = 0.04 }"),
    "efficientnet_lite0": ("max_drop = { top1 = 0.02 }", "max_drop = { top1 = 0.3 }"),
}
"""FP32 is judged too where it does not run on the reference's engine: 95 bags bound its drop at 0.032, and twenty
photographs any network's at 0.14 where all are answered alike, at 0.26 where one is not."""
SIDES = {"timer": "bound", "infer": "called"}
"""What is timed → OpenVINO's own call that takes turns with it."""


def shipped(name: str, folder: Path, packages: Path | None) -> dict[str, dict[str, Any]]:
    """The result of each engine, with the digest of each candidate's graph and the place of each engine file."""
    place = folder / name
    shutil.copytree(EXAMPLES / name, place, ignore=shutil.ignore_patterns("edgeship-out", "__pycache__"))
    text = (place / "edgeship.toml").read_text()
    for old, new in (*BUDGETS, LIMITS[name]):
        assert old in text
        text = text.replace(old, new)
    path = os.pathsep.join(str(part) for part in (packages, place) if part)
    found = {}
    for engine in ENGINES:
        (place / "edgeship.toml").write_text(text.replace('engine = "onnxruntime"', f'engine = "{engine}"'))
        _, done = harness.edgeship("ship", "edgeship.toml", "--json", cwd=place, env=os.environ | {"PYTHONPATH": path})
        if not done.stdout.strip():
            raise SystemExit(f"{name} on {engine}:\n{done.stderr[-3000:]}")
        found[engine] = json.loads(done.stdout)
        for trial in found[engine]["trials"]:
            trial["place"] = place / "edgeship-out" / trial["folder"]
            trial["spec"] = json.loads((trial["place"] / "spec.json").read_text())
    return found


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """Verdict, and by candidate: whether it passes, drops, median and achieved precision."""
    return {
        "verdict": result["verdict"],
        "chosen": result["chosen"],
        "candidates": {
            trial["candidate"]: {
                "passed": trial["passed"],
                "graph": trial["spec"]["model"]["sha256"][:12],
                "drop": trial["drop"],
                "median_ms": trial["latency_ms"]["p50"],
                "int8_share": trial["audit"]["achieved"] if trial["candidate"] == "int8" else None,
                "reasons": trial["reasons"],
            }
            for trial in result["trials"]
        },
    }


def alike(found: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """By candidate whose graph is the same file on both engines: whether both pass, or both do not."""
    ours, theirs = (found[engine]["candidates"] for engine in ENGINES)
    same = [name for name in ours if name in theirs and ours[name]["graph"] == theirs[name]["graph"]]
    return {name: ours[name]["passed"] == theirs[name]["passed"] for name in same}


def called(network: Any, array: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
    """OpenVINO's documented call, with outputs that outlive the next one."""
    names = [output.get_any_name() for output in network.outputs]

    def call() -> dict[str, np.ndarray]:
        answers = network([array])
        return {name: answers[place].copy() for place, name in enumerate(names)}

    return call


def bound(network: Any, array: np.ndarray) -> Callable[[], None]:
    """OpenVINO's request with its input set once."""
    request = network.create_infer_request()
    request.set_input_tensor(0, openvino.Tensor(array, shared_memory=True))

    def call() -> None:
        request.start_async()
        request.wait()

    return call


def timed(engine: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Medians in ms of edgeship's calls and of OpenVINO's own on one INT8 engine file, and their ratios."""
    file = read_file(engine.read_bytes(), engine.name)
    (name, shape), *others = file.plan.shapes.items()
    assert not others, "one input"
    core = openvino.Core()
    model = core.read_model(file.data)
    model.reshape({name: list(shape)})
    settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": file.plan.arithmetic}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    bare = core.compile_model(model, "CPU", settings)
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with engines.get("openvino").open(engine, OpenOptions(threads=threads)) as runner:
        answer, wanted = runner.infer({name: array}), called(bare, array)()
        assert all(np.array_equal(answer[output], wanted[output]) for output in wanted), "the same arithmetic"
        pairs = {
            "timer": {"bound": bound(bare, array.copy()), "timer": runner.timer({name: array})},
            "infer": {"called": called(bare, array), "infer": lambda: runner.infer({name: array})},
        }
        times = {pair: harness.turns(sides, rounds, warm=50) for pair, sides in pairs.items()}
    medians = {
        pair: {side: float(np.median(values)) for side, values in sides.items()} for pair, sides in times.items()
    }
    return {
        "rounds": rounds,
        "shape": list(shape),
        "threads": threads,
        "median_ms": medians,
        "ratio": {pair: sides[pair] / sides[SIDES[pair]] for pair, sides in medians.items()},
    }


def measured(name: str, packages: Path | None, rounds: int) -> dict[str, Any]:
    """Verdicts and times of one example."""
    with tempfile.TemporaryDirectory() as folder:
        results = shipped(name, Path(folder), packages)
        found: dict[str, Any] = {engine: judged(result) for engine, result in results.items()}
        trial = next(trial for trial in results["openvino"]["trials"] if trial["candidate"] == "int8")
        threads = trial["spec"]["target"]["threads"]
        times = timed(next(trial["place"].glob("engine.*")), threads, rounds)
    rows = [
        (candidate, found[engine]["candidates"][candidate]["passed"], engine, item["median_ms"])
        for engine in ENGINES
        for candidate, item in found[engine]["candidates"].items()
    ]
    verdicts = ", ".join(f"{found[engine]['verdict']} {found[engine]['chosen']} on {engine}" for engine in ENGINES)
    print(f"{name}: {verdicts}")
    print(harness.table(("candidate", "passed", "engine", "median of the trial, ms"), rows))
    pairs = [(pair, sides[pair], SIDES[pair], sides[SIDES[pair]]) for pair, sides in times["median_ms"].items()]
    print(harness.table(("INT8, one call", "median, ms", "in turns with", "median, ms"), pairs), flush=True)
    return found | {"same_graph_same_answer": alike(found), "int8": times}


def main() -> None:
    """Measure and print."""
    parser = harness.parser(__doc__)
    parser.add_argument("--packages", type=Path, help="of examples/efficientnet_lite0: measures that example too")
    parser.add_argument("--rounds", type=int, default=1000)
    given = parser.parse_args()
    before = harness.facts()
    packages = given.packages.resolve() if given.packages else None
    names = ["segmentation", *(["efficientnet_lite0"] if packages else [])]
    found = {name: measured(name, packages, given.rounds) for name in names}
    targets = []
    for name, item in found.items():
        for ours, bare in SIDES.items():
            over = f"{name}: INT8, `{ours}` over `{bare}`"
            targets.append(harness.target(over, item["int8"]["ratio"][ours], 1.05))
        same = item["same_graph_same_answer"]
        different = [candidate for candidate, equal in same.items() if not equal]
        targets.append(harness.target(f"{name}: of {len(same)} same graphs, judged differently", len(different), 0))
    harness.record(given.json, before, examples=found, targets=targets)


if __name__ == "__main__":
    main()
