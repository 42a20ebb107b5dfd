"""Energy and power of an inference: from a counter (NVML, RAPL) or from a Jetson's INA3221 sensors.

Blocks of rest and of load take turns. What a block's load takes above the rest just before it, over its frames, is one
value; the values of all blocks give the bound. A counter is read twice a block, so that reading costs nothing; sensors
without a counter are read twenty times a second in a thread of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeship.config import Gate
from edgeship.engines import Timing
from edgeship.errors import EdgeshipError, UserInputError
from edgeship.progress import Progress, silent
from edgeship.results import Energy
from edgeship.trial.conditions import power_mode, rail_power, rails

Joules = Callable[[], float]
ASKED = "gate.energy_mj_per_frame or gate.power_w"
REMOVE = f"or remove {ASKED}"
PERIOD_S = 0.05
REST_S, LOAD_S, BLOCKS = 0.5, 1.0, 8


@dataclass
class Meter:
    """A counter of joules that only rises; ``close`` ends what reads it."""

    joules: Joules
    source: str
    close: Callable[[], None] = lambda: None


def meter_for(device: str, root: Path = Path("/")) -> Meter:
    """The meter of a device: a Jetson's input rail, NVML's counter, or RAPL's package domains for ``"cpu"``.

    Args:
        device: ``"cpu"``, ``"cuda:0"``, …
        root: Where ``sys`` is; another place for a recorded tree.

    Raises:
        UserInputError: Nothing here measures it, or this user may not read it.
    """
    pairs = rails(root)
    if pairs:
        return _sensors(lambda: rail_power(pairs))
    if device.startswith("cuda"):
        return _nvml(device)
    if device == "cpu":
        return _rapl(root)
    raise UserInputError(
        f"{ASKED} is set, and nothing here measures the energy of {device}", do=f"use another device, {REMOVE}"
    )


def measures_energy(gate: Gate) -> bool:
    """Whether a rule judges what a meter measures."""
    return gate.energy_mj_per_frame is not None or gate.power_w is not None


@dataclass(frozen=True)
class Blocks:
    """How rest and load take turns."""

    count: int = BLOCKS
    rest_s: float = REST_S
    load_s: float = LOAD_S


def measure(
    call: Callable[[], Timing], batch: int, meter: Meter, blocks: Blocks | None = None, progress: Progress = silent
) -> Energy:
    """Energy of a frame and power under load, block by block.

    Args:
        call: One inference of ``batch`` frames.
        batch: Frames in a call.
        meter: What counts.
        blocks: How often and how long.
        progress: Told which block runs.
    """
    blocks = blocks or Blocks()
    each, load, rest, frames = [], [], [], 0
    call()
    for number in range(blocks.count):
        progress(number, blocks.count, "energy")
        idle = _watts(meter, lambda: time.sleep(blocks.rest_s))
        calls = 0

        def work() -> None:
            nonlocal calls
            end = time.perf_counter() + blocks.load_s
            while calls == 0 or time.perf_counter() < end:
                call()
                calls += 1

        busy = _watts(meter, work)
        each.append((busy.joules - idle.watts * busy.seconds) * 1e3 / (calls * batch))
        load.append(busy.watts)
        rest.append(idle.watts)
        frames += calls * batch
    return Energy(
        source=meter.source,
        mj_per_frame=tuple(each),
        power_w=tuple(load),
        rest_w=tuple(rest),
        frames=frames,
        batch=batch,
        power_mode=power_mode(),
    )


@dataclass(frozen=True)
class _Spent:
    joules: float
    seconds: float

    @property
    def watts(self) -> float:
        return self.joules / self.seconds


def _watts(meter: Meter, work: Callable[[], None]) -> _Spent:
    start, before = time.perf_counter(), meter.joules()
    work()
    after, end = meter.joules(), time.perf_counter()
    return _Spent(after - before, end - start)


def _sensors(power: Callable[[], float | None]) -> Meter:
    """Watts that are read again and again, summed to joules (trapezoids)."""
    lock = threading.Lock()
    ended = threading.Event()
    now = power()
    if now is None:
        raise UserInputError(
            f"{ASKED} is set, and the INA3221 sensors of this board do not answer",
            do=f"let this user read /sys/bus/i2c/drivers/ina3221 (group i2c, or root), {REMOVE}",
        )
    state = {"joules": 0.0, "watts": now, "at": time.perf_counter()}

    def update() -> float:
        with lock:
            watts, moment = power(), time.perf_counter()
            watts = state["watts"] if watts is None else watts
            state["joules"] += (watts + state["watts"]) / 2 * (moment - state["at"])
            state["watts"], state["at"] = watts, moment
            return state["joules"]

    def follow() -> None:
        while not ended.wait(PERIOD_S):
            update()

    thread = threading.Thread(target=follow, name="edgeship-energy", daemon=True)
    thread.start()

    def close() -> None:
        ended.set()
        thread.join()

    return Meter(update, "INA3221 sensors", close)


def _nvml(device: str) -> Meter:
    """NVML's counter of millijoules since the driver was loaded (Volta and later)."""
    try:
        import pynvml
    except ImportError:
        raise UserInputError(
            f"{ASKED} is set, and NVML's binding is not installed", do=f"pip install 'edgeship[nvml]', {REMOVE}"
        ) from None
    from edgeship.engines import cuda

    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        bus = cuda.properties(cuda.index_of(device)).bus_id
        handle = nvml.nvmlDeviceGetHandleByPciBusId(bus.encode())
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (nvml.NVMLError, EdgeshipError) as error:
        raise UserInputError(
            f"{ASKED} is set, and NVML does not count the energy of {device}: {error}",
            do=f"use a GPU of the Volta generation or later with a working driver, {REMOVE}",
        ) from None

    def joules() -> float:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

    return Meter(joules, "NVML's energy counter", nvml.nvmlShutdown)


def _rapl(root: Path) -> Meter:
    """The processor packages' counters of microjoules, which start again at a maximum."""
    domains = [path.parent for path in sorted(root.glob("sys/class/powercap/*rapl:[0-9]*/name")) if _is_package(path)]
    if not domains:
        raise UserInputError(
            f"{ASKED} is set, and this machine shows no energy counter: no RAPL package under /sys/class/powercap",
            expected="bare-metal x86 with the module intel_rapl_common, an NVIDIA GPU, or a Jetson",
            do=f"measure on the target itself (virtual machines and containers hide the counter), {REMOVE}",
        )
    last: dict[Path, int] = {}
    turns: dict[Path, int] = dict.fromkeys(domains, 0)

    def joules() -> float:
        total = 0.0
        for domain in domains:
            value = _microjoules(domain / "energy_uj")
            if value < last.get(domain, 0):
                turns[domain] += 1
            last[domain] = value
            total += (value + turns[domain] * _microjoules(domain / "max_energy_range_uj")) / 1e6
        return total

    joules()
    return Meter(joules, "RAPL package counters")


def _is_package(name: Path) -> bool:
    try:
        return name.read_text(encoding="utf-8").startswith("package")
    except OSError:
        return False


def _microjoules(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except PermissionError:
        raise UserInputError(
            f"{ASKED} is set, and this user may not read {path}",
            do=f"sudo chmod a+r /sys/class/powercap/*/energy_uj (until the next start of the machine), {REMOVE}",
        ) from None
    except (OSError, ValueError) as error:
        raise UserInputError(f"{ASKED} is set, and {path} cannot be read: {error}", do=f"check it, {REMOVE}") from None
