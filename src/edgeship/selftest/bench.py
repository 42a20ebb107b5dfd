"""What the checks of ``edgeship selftest`` work on: an engine on a device, what was built so far, how a check ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import Batch, EngineName, Precision, Target, takes_tensorrt_graphs
from edgeship.engines import BuildRequest, Engine, OpenOptions
from edgeship.errors import EdgeshipError, PrecisionError
from edgeship.results import Build
from edgeship.selftest import networks

BATCH = Batch(min=1, opt=2, max=4)
LEAST_DB: dict[Precision, float] = {"fp32": 60.0, "fp16": 40.0, "bf16": 30.0, "int8": 25.0, "fp8": 18.0}


class Failed(Exception):
    """What a check found against the assumption."""


class NotHere(Exception):
    """Why a check says nothing on this device."""


@dataclass
class Bench:
    """An engine on a device, and what was built so far. ``runs``: whether a device is here to run engines on."""

    name: EngineName
    engine: Engine
    device: str
    folder: Path
    runs: bool
    made: dict[str, tuple[BuildRequest, Build]] = field(default_factory=dict)

    @property
    def options(self) -> OpenOptions:
        """How engines are opened."""
        return OpenOptions(device=self.device, max_batch=BATCH.max)

    def target(self, **changes: Any) -> Target:
        """The target that is built for; without a GPU TensorRT-RTX builds ahead of time."""
        if self.name == "tensorrt-rtx" and not self.runs:
            changes = {"compute_capability": ("8.9",), **changes}
        return Target(engine=self.name, device=self.device, batch=BATCH, **changes)

    def build(
        self, precision: Precision, key: str = "", extra: dict[str, Any] | None = None, **changes: Any
    ) -> tuple[BuildRequest, Build]:
        """Build the network once for each key. ``extra``: of the request; ``changes``: of the target."""
        key = key or precision
        if key not in self.made:
            int8 = "tensorrt" if takes_tensorrt_graphs(self.name) else "onnxruntime"
            style = {"fp8": "fp8", "fp16": "fp16", "int8": int8}.get(precision, "")
            model = networks.write(self.folder / f"{key}.onnx", style)
            output = self.folder / f"{key}.built{self.engine.SUFFIX}"
            asked: Precision = "int8-fp32" if style == "onnxruntime" else precision
            request = BuildRequest(model, output, asked, self.target(**changes), **(extra or {}))
            self.made[key] = (request, self.engine.build(request))
        return self.made[key]

    def open(self, precision: Precision = "fp32", key: str = "", **options: Any) -> Any:
        """Open what :meth:`build` built. Raises NotHere where nothing runs."""
        request, _ = self.build(precision, key)
        if not self.runs:
            raise NotHere("no device to run on")
        return self.engine.open(request.output, replace(self.options, **options))

    def right(self, precision: Precision, key: str = "") -> str:
        """The answers of what :meth:`build` built against numpy's. Raises Failed where they are too far apart."""
        images = networks.frames(2)
        with self.open(precision, key) as runner:
            found = decibels(networks.answers(images), runner.infer({"images": images})["scores"])
        least = LEAST_DB["int8" if precision == "implicit" else precision]
        require(found >= least, f"{found:.1f} dB against numpy, at least {least:g}")
        return f"{found:.1f} dB against numpy"

    def device_name(self) -> str:
        """The device's own name."""
        try:
            return self.engine.identity(self.device).device
        except EdgeshipError:
            return "none"


@dataclass(frozen=True)
class Check:
    """One assumption. ``distrust``: what not to rely on where it fails."""

    name: str
    run: Callable[[Bench], str]
    distrust: str


def decibels(wanted: Any, found: Any) -> float:
    """Signal against noise; 200 where both are equal."""
    noise = float(np.sum((np.asarray(wanted, np.float64) - np.asarray(found, np.float64)) ** 2))
    return 200.0 if noise == 0 else float(10 * np.log10(np.sum(np.asarray(wanted, np.float64) ** 2) / noise))


def require(condition: bool, said: str) -> None:
    """Raise Failed unless the condition holds."""
    if not condition:
        raise Failed(said)


def optional(bench: Bench, precision: Precision, error: PrecisionError) -> Exception:
    """FP16 is not everywhere, nor INT8 on onnxruntime's GPU; where another precision is refused, something is wrong."""
    absent = precision == "fp16" or (bench.name == "onnxruntime" and bench.device != "cpu" and precision == "int8")
    return NotHere(f"{error.found}; {error.do}") if absent else error
