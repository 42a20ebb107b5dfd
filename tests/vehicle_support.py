"""Real trial folders for the tests of targets, bundles and the runtime: a small network, real files, no fakes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeship.config import Batch, Benchmark, Evaluation, Preprocess, Target
from edgeship.results import Artifact, Candidate, Decision, Judged, TrialSpec, write
from edgeship.trial.run import save_arrays

SIZE = 16
CLASSES = ("car", "cyclist", "pedestrian")
QUICK = Benchmark(warmup_s=0.01, min_s=0.02, max_s=0.5, min_samples=20, precision=0.5)
PREPROCESS = Preprocess(fit="stretch", mean=(127.0,), std=(128.0,))


def network(path: Path, seed: int = 0) -> Path:
    """A convolution, a pool and a product: images [batch, 3, 16, 16] → logits [batch, 3]."""
    random = np.random.default_rng(seed)
    kernel = random.standard_normal((8, 3, 3, 3)) * 0.02
    kernel[:3, :, 1, 1] += np.eye(3)
    product = random.standard_normal((8, len(CLASSES))) * 0.02
    product[:3] += 4 * np.eye(3)
    weights = [
        numpy_helper.from_array(kernel.astype(np.float32), "w"),
        numpy_helper.from_array(product.astype(np.float32), "v"),
    ]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "v"], ["logits"], "fc"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])
    graph = helper.make_graph(nodes, "small", [images], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def photographs(folder: Path, per_class: int = 6) -> Path:
    """A folder of small PNG files for each class."""
    random = np.random.default_rng(1)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            pixels = random.integers(0, 80, (20, 24, 3)) + np.eye(3, dtype=int)[number] * 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


@dataclass(frozen=True)
class Ground:
    """A model and labelled images that trials are made of."""

    model: Path
    images: Path


def ground(folder: Path) -> Ground:
    """Make the model and the images."""
    folder.mkdir(parents=True, exist_ok=True)
    return Ground(network(folder / "model.onnx"), photographs(folder / "val"))


def make_trial(folder: Path, made: Ground, *, target: Target | None = None, name: str = "fp32") -> Path:
    """A trial directory that is ready to run."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made.model, folder / "model.onnx")
    frames = np.random.default_rng(2).standard_normal((4, 3, SIZE, SIZE)).astype(np.float32)
    save_arrays(folder / "frames.npz", {"images": frames})
    spec = TrialSpec(
        candidate=Candidate(name=name, precision="fp32"),
        target=target or Target(batch=Batch(min=1, opt=2, max=4), threads=1),
        model=Artifact.of(folder / "model.onnx", folder),
        frames=Artifact.of(folder / "frames.npz", folder),
        benchmark=QUICK,
        evaluation=Evaluation(task="classification", images=made.images, classes=CLASSES, workers=1),
        preprocess=PREPROCESS,
    )
    write(spec, folder / "spec.json")
    return folder


def decision(name: str = "fp32") -> Decision:
    """A SHIP for one candidate."""
    judged = Judged(candidate=name, outcome="pass", rules=())
    return Decision(verdict="SHIP", chosen=name, sentence=f"SHIP {name}", judged=(judged,))
