"""Real TensorRT-RTX engines on a machine with no GPU: five architectures, three precisions, fixed and dynamic batch."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgeship import engines
from edgeship.config import Batch, InputSpec, Model, Target
from edgeship.engines import BuildRequest, OpenOptions
from edgeship.engines.trt.plan import read_plan
from edgeship.errors import DeviceError, PrecisionError
from edgeship.prepare import calibrate, calibration_cache, export, graph, preflight, quantize, slim
from edgeship.prepare import fp16 as fp16_module
from edgeship.results import Audit, Build

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ARCHITECTURES = ("resnet", "mobilenet", "vit", "detr", "unet")
CAPABILITIES = ("8.6", "12.0")
RTX = engines.get("tensorrt-rtx")


def frames(batch: int, count: int = 6) -> list[tuple[list[str], dict[str, np.ndarray]]]:
    """Smooth pictures with edges: a gradient, a disc and a bar that differ from frame to frame."""
    rows, columns = np.mgrid[0:64, 0:64] / 64.0
    found = []
    for index in range(count):
        pictures = []
        for item in range(batch):
            phase = (index * batch + item) / (count * batch)
            disc = ((rows - 0.3 - 0.4 * phase) ** 2 + (columns - 0.5) ** 2 < 0.04).astype(np.float32)
            bar = (np.abs(columns - phase) < 0.08).astype(np.float32)
            pictures.append(np.stack((rows * (1 - phase) + disc, columns * phase + bar, disc - bar)))
        names = [f"frame-{index}-{item}" for item in range(batch)]
        found.append((names, {"images": np.stack(pictures).astype(np.float32)}))
    return found


@dataclass(frozen=True)
class Graphs:
    """One network's ONNX files by precision."""

    fp32: Path
    fp16: Path
    int8: Path


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Export, simplify, convert and quantize once for each network and kind of batch."""

    @functools.cache
    def make(name: str, dynamic: bool) -> Graphs:
        folder = tmp_path_factory.mktemp(f"{name}-{'dynamic' if dynamic else 'fixed'}")
        axis = "batch" if dynamic else 2
        model = Model(source=f"architectures:{name}", inputs={"images": InputSpec(shape=(axis, 3, 64, 64))})
        export.export(model, HERE, folder / "model.onnx")
        plain = folder / "fp32.onnx"
        slim.slim(folder / "model.onnx", plain)
        seen = frames(2)
        fp16_module.to_half(plain, seen, folder / "fp16.onnx")
        table = folder / "calibration.cache"
        calibrate.calibrate(plain, seen, table, calibrate.CalibrateOptions(method="minmax"))
        known = calibration_cache.load(
            table, calibration_cache.Expected(calibration_cache.graph_hash(graph.load_onnx(plain)), "")
        )
        quantize.quantize(plain, known, folder / "int8.onnx", seen, quantize.QuantizeOptions("tensorrt"))
        return Graphs(plain, folder / "fp16.onnx", folder / "int8.onnx")

    yield make


def built(model: Path, precision: str, *, dynamic: bool, keep: tuple[str, ...] = ()) -> tuple[Build, Audit, Path]:
    """Build for two compute capabilities and audit."""
    batch = Batch(min=1, opt=4, max=8) if dynamic else Batch()
    target = Target(engine="tensorrt-rtx", device="cuda:0", batch=batch, compute_capability=CAPABILITIES)
    output = model.with_suffix(".engine")
    request = BuildRequest(model, output, precision, target, keep=keep, log=model.with_suffix(".log"))  # type: ignore[arg-type]
    done = RTX.build(request)
    return done, RTX.audit(output, request, OpenOptions(device="cuda:0")), output


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_three_precisions_build_and_are_what_they_say(name: str, dynamic: bool, graphs) -> None:  # type: ignore[no-untyped-def]
    made = graphs(name, dynamic)
    sizes = {}
    for precision, achieved in (("fp32", 1.0), ("fp16", 0.9), ("int8", 0.6)):
        done, audit, output = built(getattr(made, precision), precision, dynamic=dynamic)
        plan = read_plan(output)
        assert plan.engine == "tensorrt-rtx"
        assert plan.size_bytes == output.stat().st_size == done.engine.size_bytes
        assert done.identity.compute_capability == "8.6, 12.0"
        assert audit.source == "network"
        assert audit.achieved >= achieved, audit.missed
        assert done.profiles["images"][0] == ((1 if dynamic else 2), 3, 64, 64)
        assert done.profiles["images"][2] == ((8 if dynamic else 2), 3, 64, 64)
        assert [tensor.name for tensor in done.inputs] == ["images"]
        assert done.log is not None
        sizes[precision] = done.engine.size_bytes
        heavy = audit.layers.get("Conv", {})
        wanted = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}[precision]
        assert heavy.get(wanted, 0) > 0, audit.layers


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_preflight_has_no_objection(name: str, graphs) -> None:  # type: ignore[no-untyped-def]
    result = preflight.preflight(graphs(name, True).fp32, engine="tensorrt-rtx")
    assert result.errors == ()
    assert result.parser is not None
    assert "TensorRT-RTX" in result.parser


def test_an_fp32_graph_is_no_fp16_engine(graphs) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PrecisionError, match="every convolution and matrix product of fp32"):
        built(graphs("resnet", False).fp32, "fp16", dynamic=False)


def test_an_fp8_engine_is_built_for_ada(graphs, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plain = graphs("vit", True).fp32
    known = calibration_cache.load(plain.with_name("calibration.cache"), calibration_cache.Expected(), trust=True)
    model = tmp_path / "fp8.onnx"
    quantize.quantize(plain, known, model, frames(2), quantize.QuantizeOptions("tensorrt", "fp8"))
    target = Target(engine="tensorrt-rtx", device="cuda:0", batch=Batch(max=4), compute_capability=("8.9", "12.0"))
    request = BuildRequest(model, tmp_path / "fp8.engine", "fp8", target)
    done = RTX.build(request)
    assert read_plan(request.output).size_bytes == done.engine.size_bytes
    audit = RTX.audit(request.output, request, OpenOptions(device="cuda:0"))
    assert audit.layers["MatMul"]["fp8"] > 0
    assert audit.achieved > 0.6, audit.missed


def test_the_audit_names_what_missed(graphs) -> None:  # type: ignore[no-untyped-def]
    made = graphs("detr", False)
    _, audit, _ = built(made.int8, "int8", dynamic=False)
    assert {layer.precision for layer in audit.missed} <= {"fp16", "fp32"}
    assert all(layer.name for layer in audit.missed)
    names = tuple(layer.name for layer in audit.missed)
    _, kept, _ = built(made.int8, "int8", dynamic=False, keep=names)
    assert kept.achieved == 1.0
    assert set(kept.kept) == set(names)


def test_without_a_gpu_the_engine_is_built_and_says_that_it_did_not_run(graphs) -> None:  # type: ignore[no-untyped-def]
    done, _, output = built(graphs("resnet", True).fp32, "fp32", dynamic=True)
    if RTX.probe().devices:
        assert done.runnable or done.reason
        return
    assert not done.runnable
    assert done.reason == "no GPU here"
    with pytest.raises(DeviceError, match="no CUDA driver"):
        RTX.open(output, OpenOptions(device="cuda:0"))


def test_the_command_builds_and_inspects(graphs, tmp_path: Path, edgeship) -> None:  # type: ignore[no-untyped-def]
    model = graphs("unet", True).int8
    engine = tmp_path / "unet.engine"
    done = edgeship("build", model, "--engine", "tensorrt-rtx", "--out", engine, "--max-batch", "4", "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["audit"]["asked"] == "int8-fp16"
    assert answer["build"]["engine"]["size_bytes"] == engine.stat().st_size
    shown = edgeship("inspect", engine, "--json")
    assert json.loads(shown.out)["profiles"]["images"][2] == [4, 3, 64, 64]
