"""The self-test runs real engines, and each of its checks fails where what it proves is broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeship import engines
from edgeship.config import Target
from edgeship.engines import Engine
from edgeship.errors import BuildError, ConfigError, DeviceError, EdgeshipError, PrecisionError
from edgeship.results import Identity
from edgeship.selftest import networks, selftest
from edgeship.selftest.bench import Bench, Check, Failed, NotHere
from edgeship.selftest.checks import CHECKS


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "tensorrt-rtx"])
def test_nothing_fails_on_this_machine_and_nothing_private_is_said(engine: Any, tmp_path: Path) -> None:
    found = selftest(engine)
    assert [check.name for check in found.checks if check.outcome == "failed"] == []
    outcome = {check.name: check.outcome for check in found.checks}
    assert outcome["build fp32"] == outcome["build int8"] == outcome["audit int8"] == "passed"
    if engine != "tensorrt-rtx":
        assert outcome["answers int8"] == outcome["consistency"] == outcome["foreign file refused"] == "passed"
    text = json.dumps(found.model_dump(mode="json"))
    assert "/tmp" not in text and str(Path.home()) not in text


@pytest.mark.parametrize("style", ["", "onnxruntime", "tensorrt"])
def test_the_networks_are_valid_onnx(tmp_path: Path, style: str) -> None:
    onnx.checker.check_model(onnx.load(networks.write(tmp_path / "net.onnx", style)), full_check=True)


@dataclass
class Bent:
    """A real engine whose builds, answers, audit or identity are bent on the way out. It runs on the CPU."""

    engine: Engine
    answer: Callable[[dict[str, np.ndarray], int], dict[str, np.ndarray]] | None = None
    achieved: float | None = 1.0
    accepts: bool = False
    fits: bool = True
    refuses: bool = False
    """Every build."""
    plain: bool = False
    """Builds FP32 whatever is asked."""
    graph: bool = False
    """Its timer says that it replays a CUDA graph."""
    version: str = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def build(self, request: Any) -> Any:
        if self.refuses:
            raise BuildError("no build today", do="nothing")
        if self.plain:
            target = Target(engine="onnxruntime", batch=request.target.batch)
            request = replace(request, precision="fp32", target=target)
        return None if self.accepts and "unknown" in request.onnx.name else self.engine.build(request)

    def probe(self) -> Any:
        return replace(self.engine.probe(), version=self.version) if self.version else self.engine.probe()

    def audit(self, *arguments: Any) -> Any:
        return self.engine.audit(*arguments).model_copy(update={"achieved": self.achieved})

    def misfits(self, built: Identity, device: str) -> list[str]:
        return self.engine.misfits(built, device) if self.fits else []

    def open(self, path: Path, options: Any) -> Any:
        if self.accepts:
            return BentRunner(None, None, self)
        return BentRunner(self.engine.open(path, replace(options, device="cpu", cuda_graph=False)), self.answer, self)


class BentRunner:
    calls = 0

    def __init__(self, runner: Any, answer: Any, engine: Bent) -> None:
        self._runner, self._answer, self._engine = runner, answer, engine

    def infer(self, feeds: Any) -> Any:
        if self._runner is None:
            return {"scores": np.zeros((2, 4), np.float32)}
        BentRunner.calls += 1
        found = self._runner.infer(feeds)
        return self._answer(found, BentRunner.calls) if self._answer else found

    def timer(self, feeds: Any) -> Any:
        timer = self._runner.timer(feeds)
        timer.cuda_graph = self._engine.graph
        return timer

    @property
    def inputs(self) -> Any:
        return self._runner.inputs

    @property
    def outputs(self) -> Any:
        return self._runner.outputs

    def close(self) -> None:
        pass

    def __enter__(self) -> BentRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def noisy(found: dict[str, np.ndarray], call: int) -> dict[str, np.ndarray]:
    """Answers that change from call to call."""
    return {name: value * np.float32(1 + 0.1 * call) for name, value in found.items()}


def place_trtexec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script on the PATH that tells one millisecond a call, as trtexec's file does."""
    rows = json.dumps([{"h2dMs": 0.0, "computeMs": 1.0, "d2hMs": 0.0, "latencyMs": 1.0}] * 9)
    folder.mkdir()
    take = 'for a in "$@"; do case $a in --exportTimes=*) out=${a#--exportTimes=};; esac; done'
    said = "if [ \"$1\" = --help ]; then echo '[TensorRT v100300] --fp16 --int8 --calib --stronglyTyped'; exit 0; fi"
    (folder / "trtexec").write_text(f"#!/bin/sh\n{said}\n{take}\necho '{rows}' > \"$out\"\n")
    (folder / "trtexec").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def check_of(name: str) -> Check:
    return next(check for check in CHECKS if check.name == name)


def broken(name: str, bench: Bench) -> str:
    """What a check says not to trust where it fails, as ``selftest`` would see it fail."""
    with pytest.raises((Failed, EdgeshipError)):
        check_of(name).run(bench)
    return check_of(name).distrust


@pytest.mark.parametrize(
    ("name", "bent"),
    [
        ("answers fp32", {"answer": noisy}),
        ("dynamic batch", {"answer": noisy}),
        ("consistency", {"answer": noisy}),
        ("timer", {"answer": noisy}),
        ("same answer again", {"answer": noisy}),
        ("audit fp32", {"achieved": None}),
        ("wrong shape refused", {"accepts": True}),
        ("foreign file refused", {"accepts": True}),
        ("changed file refused", {"accepts": True}),
        ("fit", {"fits": False}),
        ("operator refused", {"accepts": True}),
        ("data-dependent output", {"answer": noisy}),
        ("answers int8", {"answer": noisy}),
        ("audit int8", {"achieved": None}),
        ("mixed precision", {"achieved": 0.0}),
        ("build fp32", {"refuses": True}),
        ("build int8", {"refuses": True}),
        ("bundle and known answer", {"answer": noisy}),
    ],
)
def test_a_check_fails_where_its_assumption_is_broken(tmp_path: Path, name: str, bent: dict[str, Any]) -> None:
    real = engines.get("onnxruntime")
    bench = Bench("onnxruntime", Bent(real, **bent), "cpu", tmp_path, runs=True)  # type: ignore[arg-type]
    assert broken(name, bench)


@pytest.mark.parametrize(
    ("name", "bent"),
    [
        ("build fp16", {"refuses": True}),
        ("answers fp16", {"answer": noisy}),
        ("audit fp16", {"achieved": None}),
    ],
)
def test_a_check_of_fp16_fails_where_its_assumption_is_broken(tmp_path: Path, name: str, bent: dict[str, Any]) -> None:
    bench = Bench("openvino", Bent(engines.get("openvino"), **bent), "cpu", tmp_path, runs=True)  # type: ignore[arg-type]
    assert broken(name, bench)


def test_a_cuda_graph_that_answers_otherwise_is_found(tmp_path: Path) -> None:
    bent = Bent(engines.get("onnxruntime"), answer=noisy, graph=True, plain=True)
    assert broken("CUDA graph", Bench("onnxruntime", bent, "cuda:0", tmp_path, runs=True))  # type: ignore[arg-type]


def test_int8_that_onnxruntime_lacks_on_a_gpu_is_not_a_failure(tmp_path: Path) -> None:
    """There the engine refuses it, and says what takes it; on a CPU the same refusal is a failure."""

    class Refusing(Bent):
        def build(self, request: Any) -> Any:
            raise PrecisionError("INT8 on a GPU needs engine = 'tensorrt'", do="use it")

    for device, wanted in (("cuda:0", NotHere), ("cpu", PrecisionError)):
        bench = Bench("onnxruntime", Refusing(engines.get("onnxruntime")), device, tmp_path, runs=True)  # type: ignore[arg-type]
        for name in ("build int8", "answers int8", "audit int8", "mixed precision"):
            with pytest.raises(wanted):
                check_of(name).run(bench)


@pytest.mark.parametrize(
    ("name", "bent"),
    [
        ("above the profile refused", {}),
        ("timing cache", {}),
        ("version-compatible plan", {"answer": noisy}),
        ("hardware-compatible plan", {"answer": noisy}),
        ("implicit int8", {"answer": noisy, "plain": True, "version": "10.16.1"}),
        ("implicit int8", {"plain": True, "version": "10.16.1"}),  # it writes no calibration cache
        ("DLA", {"answer": noisy, "plain": True}),
        ("plugins", {}),  # TensorRT itself is not here
        ("median of trtexec", {}),  # this engine has no device time that could equal it
    ],
)
def test_a_check_of_tensorrt_fails_where_its_assumption_is_broken(
    tmp_path: Path, name: str, bent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that serves every batch, reuses no timing cache and answers otherwise each time stands for TensorRT."""
    place_trtexec(tmp_path / "bin", monkeypatch)
    bench = Bench("tensorrt", Bent(engines.get("onnxruntime"), **bent), "cpu", tmp_path, runs=True)  # type: ignore[arg-type]
    assert broken(name, bench)


def test_fp8_that_is_none_is_found(tmp_path: Path) -> None:
    bench = Bench("tensorrt-rtx", Bent(engines.get("tensorrt-rtx"), achieved=0.0), "cuda:0", tmp_path, runs=False)  # type: ignore[arg-type]
    with pytest.raises(Failed, match="none of the arithmetic is fp8"):
        next(check for check in CHECKS if check.name == "fp8").run(bench)


@pytest.mark.parametrize(
    ("engine", "device", "error"),
    [
        ("onnxruntime", "tpu", ConfigError),
        ("onnxruntime", "cuda:99", DeviceError),
        ("openvino", "npu", DeviceError),
        ("tensorrt", "cpu", ConfigError),
    ],
)
def test_a_device_that_is_not_here_fails_no_check(engine: Any, device: str, error: type[EdgeshipError]) -> None:
    with pytest.raises(error, match=r"device|CUDA|finds"):
        selftest(engine, device)


def test_an_engine_that_is_not_installed_fails_once(tmp_path: Path) -> None:
    found = selftest("tensorrt")
    assert [check.name for check in found.checks if check.outcome == "failed"] == ["available"]
    assert {check.outcome for check in found.checks[1:]} == {"not here"}
