"""The self-test runs real engines, and each of its checks fails where what it proves is broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeship import engines
from edgeship.engines import Engine
from edgeship.results import Identity
from edgeship.selftest import networks, selftest
from edgeship.selftest.bench import Bench, Failed
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
    """A real engine whose answers, audit or identity are bent on the way out."""

    engine: Engine
    answer: Callable[[dict[str, np.ndarray], int], dict[str, np.ndarray]] | None = None
    achieved: float | None = 1.0
    accepts: bool = False
    fits: bool = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def build(self, request: Any) -> Any:
        return None if self.accepts and "unknown" in request.onnx.name else self.engine.build(request)

    def audit(self, *arguments: Any) -> Any:
        return self.engine.audit(*arguments).model_copy(update={"achieved": self.achieved})

    def misfits(self, built: Identity, device: str) -> list[str]:
        return self.engine.misfits(built, device) if self.fits else []

    def open(self, path: Path, options: Any) -> Any:
        if self.accepts:
            return BentRunner(None, None, self)
        return BentRunner(self.engine.open(path, options), self.answer, self)


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
        return self._runner.timer(feeds)

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
    ],
)
def test_a_check_fails_where_its_assumption_is_broken(tmp_path: Path, name: str, bent: dict[str, Any]) -> None:
    real = engines.get("onnxruntime")
    bench = Bench("onnxruntime", Bent(real, **bent), "cpu", tmp_path, runs=True)  # type: ignore[arg-type]
    check = next(check for check in CHECKS if check.name == name)
    with pytest.raises(Failed):
        check.run(bench)
    assert check.distrust


@pytest.mark.parametrize(
    ("name", "bent"),
    [
        ("above the profile refused", {}),
        ("timing cache", {}),
        ("version-compatible plan", {"answer": noisy}),
        ("hardware-compatible plan", {"answer": noisy}),
    ],
)
def test_a_check_of_tensorrt_fails_where_its_assumption_is_broken(
    tmp_path: Path, name: str, bent: dict[str, Any]
) -> None:
    """An engine that serves every batch, reuses no timing cache and answers otherwise each time stands for TensorRT."""
    bench = Bench("tensorrt", Bent(engines.get("onnxruntime"), **bent), "cpu", tmp_path, runs=True)  # type: ignore[arg-type]
    check = next(check for check in CHECKS if check.name == name)
    with pytest.raises(Failed):
        check.run(bench)
    assert check.distrust


def test_fp8_that_is_none_is_found(tmp_path: Path) -> None:
    bench = Bench("tensorrt-rtx", Bent(engines.get("tensorrt-rtx"), achieved=0.0), "cuda:0", tmp_path, runs=False)  # type: ignore[arg-type]
    with pytest.raises(Failed, match="none of the arithmetic is fp8"):
        next(check for check in CHECKS if check.name == "fp8").run(bench)


def test_an_engine_that_is_not_installed_fails_once(tmp_path: Path) -> None:
    found = selftest("tensorrt")
    assert [check.name for check in found.checks if check.outcome == "failed"] == ["available"]
    assert {check.outcome for check in found.checks[1:]} == {"not here"}
