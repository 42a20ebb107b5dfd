"""The whole path: time, what a rerun and another threshold cost, what lies outside the unavoidable work, and help.

    python benchmarks/ship.py [--projects fashion photographs] [--packages DIR] [--json FILE]

``fashion`` is the demo: a network of 0.1 ms an image, 512 frames, 2,500 images. ``photographs`` has the size of a real
project: ResNet-18 of our own definition (random weights: only time matters) at 224 x 224, 256 frames, 1,000 images.

A rerun is timed as somebody types it: unchanged, then with the threshold of a rule that the config has. A rule that it
has not, p99 for ``photographs``, is timed beside them: where the calls of the trials do not bound p99, they are
measured again.

The unavoidable work is measured by itself in the same run: torch.export and the ONNX export with torch's import, the
forward passes of calibration and of each candidate's evaluation through onnxruntime on ready arrays, onnxruntime's own
quantization with its quickest calibrator on the same frames, and the time that benchmarking is asked to take. Decoding
images, checks, hashes, parity, the search for the best of four methods, processes and the report are outside.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
LITE0 = HERE.parent / "examples" / "efficientnet_lite0"
FASHION = HERE.parent / "examples" / "fashion"
PROJECTS = ("fashion", "photographs")
SHAPES = {"fashion": (1, 28, 28), "photographs": (3, 224, 224)}
THRESHOLDS = {"fashion": "gate.latency_p99_ms=5000", "photographs": "gate.latency_p50_ms=999"}
"""A rule that the config has, with another limit."""
RULES = {"photographs": "gate.latency_p99_ms=5000"}
"""A rule that the config has not."""
COUNTS = {"fashion": (512, 2500), "photographs": (256, 1000)}
"""Calibration frames and evaluation images."""
CONFIG = """
[model]
source = "models:ResNet18"

[model.inputs.images]
shape = ["batch", 3, 224, 224]

[preprocess]
mean = [123.7, 116.3, 103.5]
std = [58.4, 57.1, 57.4]

[calibration]
images = "calib/"
count = 256

[evaluation]
images = "val/"
labels = "labels.csv"
classes = "classes.txt"

[target]
batch = { min = 1, opt = 1, max = 8 }

[gate]
latency_p50_ms = 1000
"""


def photographs(folder: Path) -> Path:
    """The project of that name: crops of photographs as JPEG, labels that mean nothing; returns its config."""
    shutil.copy(HERE / "models.py", folder / "models.py")
    labels, crops = ["image,label"], harness.crops(256)
    for name, count in zip(("calib", "val"), COUNTS["photographs"], strict=True):
        (folder / name).mkdir()
        for number in range(count):
            Image.fromarray(next(crops)).save(folder / name / f"{number:04}.jpg", quality=90)
            if name == "val":
                labels.append(f"{number:04}.jpg,{number % 1000}")
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "classes.txt").write_text("".join(f"{number}\n" for number in range(1000)))
    (folder / "edgeship.toml").write_text(CONFIG)
    return folder / "edgeship.toml"


def whole(project: str, config: Path, folder: Path) -> dict[str, Any]:
    """A first run, its stages, a rerun, another threshold and another rule."""
    first, done = harness.edgeship("ship", config, "--out", folder)
    if not (folder / "result.json").is_file():
        raise SystemExit(done.stderr[-2000:])
    result = json.loads((folder / "result.json").read_text())
    again, _ = harness.edgeship("ship", config, "--out", folder)
    changed, _ = harness.edgeship("ship", config, "--out", folder, "--set", THRESHOLDS[project])
    measured = _worked(folder)
    rule_s = rule_measured = None
    if project in RULES:
        rule_s, _ = harness.edgeship("ship", config, "--out", folder, "--set", RULES[project])
        rule_measured = _worked(folder)
    trials = {
        trial["candidate"]: json.loads((folder / trial["folder"] / "trial.json").read_text())
        for trial in result["trials"]
    }
    return {
        "exit_code": done.returncode,
        "verdict": result["verdict"],
        "first_s": first,
        "rerun_s": again,
        "changed_threshold_s": changed,
        "changed_threshold_worked": measured,
        "new_rule_s": rule_s,
        "new_rule_worked": rule_measured,
        "stages": {stage["name"]: round(stage["seconds"], 2) for stage in result["stages"]},
        "benchmark_s": sum(trial["latency"]["seconds"] for trial in trials.values()),
        "latency_p50_ms": {name: trial["latency"]["wall_ms"]["p50"] for name, trial in trials.items()},
        "models": {trial["candidate"]: str(folder / trial["folder"] / "model.onnx") for trial in result["trials"]},
    }


def _worked(folder: Path) -> list[str]:
    """The stages that the last run did not take over."""
    stages = json.loads((folder / "result.json").read_text())["stages"]
    return [stage["name"] for stage in stages if not stage["cached"]]


CODE = """
import json, logging, sys, time, warnings
given = json.loads(sys.argv[1])
logging.disable(logging.CRITICAL); warnings.simplefilter("ignore")
sys.path.insert(0, given["source"])
shape = given["shape"]
start = time.perf_counter()
import torch
if given["project"] == "fashion":
    from model import build
else:
    from models import ResNet18 as build
torch.onnx.export(build().eval(), (torch.randn(2, *shape),), dynamo=True, opset_version=18, verbose=False,
                  dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
seconds = {"export": time.perf_counter() - start}
import numpy as np, onnxruntime as ort
frames = np.random.default_rng(0).standard_normal((given["frames"], *shape)).astype("float32")
sessions = {name: ort.InferenceSession(path) for name, path in given["models"].items()}
name = sessions["fp32"].get_inputs()[0].name
def passes(session, images):
    start = time.perf_counter()
    for _ in range(images // 8):
        session.run(None, {name: frames[:8]})
    return time.perf_counter() - start
seconds["forward passes of calibration"] = passes(sessions["fp32"], given["frames"])
for candidate, session in sessions.items():
    seconds[f"forward passes, evaluation of {candidate}"] = passes(session, given["images"])
from onnxruntime.quantization import CalibrationDataReader, quantize_static
class Reader(CalibrationDataReader):
    def __init__(self): self.rows = iter(frames[:8])
    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {name: row[None]}
start = time.perf_counter()
quantize_static(given["models"]["fp32"], given["scratch"], Reader(), per_channel=True)
seconds["quantization, eight frames"] = time.perf_counter() - start
print(json.dumps(seconds))
"""


def unavoidable(project: str, source: Path, found: dict[str, Any], scratch: Path) -> dict[str, float]:
    """The parts that any path has to pay, in a process of their own."""
    frames, images = COUNTS[project]
    given = {
        "project": project,
        "source": str(source),
        "shape": SHAPES[project],
        "frames": frames,
        "images": images,
        "models": found["models"],
        "scratch": str(scratch / "quantized.onnx"),
    }
    command = [sys.executable, "-c", CODE, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=harness.environment())
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parts | {"measuring latency, as asked for": found["benchmark_s"]}


def measured(project: str) -> dict[str, Any]:
    """One project's figures."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        config = FASHION / "edgeship.toml" if project == "fashion" else photographs(place)
        found = whole(project, config, place / "out")
        parts = unavoidable(project, config.parent, found, place)
    found.pop("models")
    floor = sum(parts.values())
    found["unavoidable_s"] = {name: round(seconds, 3) for name, seconds in parts.items()}
    found["outside_share"] = 1 - floor / found["first_s"]
    print(
        f"{project}: first run {found['first_s']:.1f} s ({found['verdict']}), rerun {found['rerun_s']:.2f} s, "
        f"another threshold {found['changed_threshold_s']:.2f} s ({', '.join(found['changed_threshold_worked'])})"
    )
    if found["new_rule_s"] is not None:
        print(f"  a rule that it had not {found['new_rule_s']:.2f} s ({', '.join(found['new_rule_worked'])})")
    print(f"  unavoidable {floor:.1f} s: " + ", ".join(f"{name} {value:.2f}" for name, value in parts.items()))
    print(f"  outside the unavoidable work: {found['outside_share']:.0%} of the first run", flush=True)
    return found


def lite0(packages: Path) -> dict[str, Any]:
    """EfficientNet-Lite0 through ``ship``, and PyTorch eager at once after it: batch 1, medians in ms."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "example"
        shutil.copytree(LITE0, place, ignore=shutil.ignore_patterns("edgeship-out"))
        path = os.pathsep.join([str(packages.resolve()), str(place)])
        arguments = ("ship", place / "edgeship.toml", "--json")
        _, done = harness.edgeship(*arguments, cwd=place, env=harness.environment(PYTHONPATH=path))
        result = json.loads(done.stdout)
        sys.path[:0] = path.split(os.pathsep)
        medians = {item["candidate"]: item["latency_ms"]["p50"] for item in result["trials"]}
        medians["pytorch"] = eager()
    rows = [(name, value, medians["pytorch"] / value) for name, value in medians.items()]
    print(harness.table(("EfficientNet-Lite0, batch 1", "median ms", "times PyTorch eager"), rows))
    return {
        "verdict": result["verdict"],
        "chosen": result["chosen"],
        "top1": {item["candidate"]: item["metrics"]["top1"] for item in result["trials"]},
        "median_ms": medians,
        "fp32_over_int8": medians["fp32"] / medians["int8"],
    }


def eager(calls: int = 100) -> float:
    """Median milliseconds of one image by PyTorch eager."""
    import torch
    from model import build

    module, image = build().eval(), torch.from_numpy(np.random.default_rng(0).random((1, 3, 224, 224), np.float32))
    with torch.no_grad():
        return float(np.median(harness.turns({"eager": lambda: module(image)}, calls)["eager"]))


def main() -> None:
    """Measure and print."""
    parser = harness.parser(__doc__)
    parser.add_argument("--projects", nargs="+", choices=PROJECTS, default=PROJECTS)
    parser.add_argument("--packages", type=Path, help="of examples/efficientnet_lite0: measures that example too")
    given = parser.parse_args()
    before = harness.facts()
    harness.compile_sources()
    help_s = statistics.median(harness.edgeship("--help")[0] for _ in range(5))
    projects = {project: measured(project) for project in given.projects}
    example = lite0(given.packages) if given.packages else None
    targets = [harness.target("edgeship --help, s", help_s, 0.3)]
    for project, found in projects.items():
        targets.append(harness.target(f"{project}: rerun unchanged, s", found["rerun_s"], 1.0))
        targets.append(harness.target(f"{project}: another threshold, s", found["changed_threshold_s"], 1.5))
        targets.append(harness.target(f"{project}: outside the unavoidable work", found["outside_share"], 0.2))
    harness.record(given.json, before, help_s=help_s, projects=projects, lite0=example, targets=targets)


if __name__ == "__main__":
    main()
