"""Clocks, temperature, throttling and power around a measurement: NVML, a Jetson's sysfs, or a CPU's.

Nothing here sets anything, and nothing here fails a measurement: what cannot be read is absent.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeship.engines import Runner
from edgeship.results import Conditions

HARMFUL = {
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "hardware power brake",
    "SwThermalSlowdown": "software thermal slowdown",
    "SwPowerCap": "software power cap",
}
_FELL = 0.9
_KHZ, _HZ, _MILLI = 1e3, 1e6, 1e3


@dataclass(frozen=True)
class Sample:
    """One reading; None where it could not be read."""

    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    reasons: tuple[str, ...] = ()
    power_mode: str | None = None
    """The nvpmodel mode, the GPU's power limit or the processor's governor."""


Reader = Callable[[], Sample]


@dataclass
class Watch:
    """Samples the conditions at entry, on request, and at exit."""

    read: Reader | None = None
    source: str = ""
    close: Callable[[], None] = lambda: None
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def of(cls, runner: Runner) -> Watch:
        """The watch for the device that a runner works on."""
        return for_device(device_of(runner))

    def sample(self) -> None:
        """Take a reading now."""
        if self.read is not None:
            self.samples.append(self.read())

    def __enter__(self) -> Watch:
        self.sample()
        return self

    def __exit__(self, *exc: object) -> None:
        self.sample()
        self.close()

    def conditions(self) -> Conditions:
        """What was seen: before, during and after, in order."""
        reasons = dict.fromkeys(reason for sample in self.samples for reason in sample.reasons)
        clocks = _column(self.samples, "clock_mhz")
        modes = tuple(dict.fromkeys(sample.power_mode for sample in self.samples if sample.power_mode))
        return Conditions(
            clock_mhz=clocks,
            memory_clock_mhz=_column(self.samples, "memory_clock_mhz"),
            temperature_c=_column(self.samples, "temperature_c"),
            power_w=_column(self.samples, "power_w"),
            throttle_reasons=tuple(reasons),
            power_mode=modes[0] if modes else None,
            source=self.source if self.samples else "",
            changed=_changed(clocks, tuple(reasons), modes, self.source),
        )


def device_of(runner: Runner) -> str:
    """The device of a runner, ``"cpu"`` where it does not say."""
    device: Any = getattr(runner, "device", "cpu")
    return device if isinstance(device, str) else str(getattr(device, "name", "cpu"))


def for_device(device: str, root: Path = Path("/")) -> Watch:
    """The best source for a device: NVML, then a Jetson's sysfs; the CPU's sysfs for ``"cpu"``.

    Args:
        device: ``"cpu"`` or ``"cuda:0"``.
        root: Where ``sys``, ``etc`` and ``var`` are; another place for a recorded tree.
    """
    if device.startswith("cuda"):
        return _jetson(root) or _nvml(device) or Watch()
    return _cpu(root) or Watch()


def _changed(clocks: tuple[float, ...], reasons: tuple[str, ...], modes: tuple[str, ...], source: str) -> str:
    """Why a measurement cannot be trusted; empty when conditions held."""
    found = [f"the device throttled: {', '.join(reasons)}"] if reasons else []
    if source != "cpu sysfs" and len(clocks) > 1 and min(clocks) < _FELL * max(clocks):
        found.append(f"the clock moved between {min(clocks):.0f} and {max(clocks):.0f} MHz")
    if len(modes) > 1:
        found.append(f"the power mode went from {' to '.join(modes)}")
    return "; ".join(found)


def _column(samples: list[Sample], name: str) -> tuple[float, ...]:
    values = (getattr(sample, name) for sample in samples)
    return tuple(round(float(value), 2) for value in values if value is not None)


# --- NVML ----------------------------------------------------------------------------------------------------


def _nvml(device: str) -> Watch | None:
    """A watch on NVML (nvidia-ml-py), or None where it is not installed or does not answer."""
    try:
        import pynvml
    except ImportError:
        return None
    from edgeship.engines import cuda

    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        bus = cuda.properties(cuda.index_of(device)).bus_id
        handle = nvml.nvmlDeviceGetHandleByPciBusId(bus.encode())
    except nvml.NVMLError:
        return None

    def asked(question: str, *arguments: Any) -> float | None:
        with contextlib.suppress(nvml.NVMLError):
            return float(getattr(nvml, question)(handle, *arguments))
        return None

    def read() -> Sample:
        bits = int(asked("nvmlDeviceGetCurrentClocksThrottleReasons") or 0)
        power, limit = asked("nvmlDeviceGetPowerUsage"), asked("nvmlDeviceGetPowerManagementLimit")
        return Sample(
            clock_mhz=asked("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_clock_mhz=asked("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            temperature_c=asked("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / _MILLI,
            reasons=tuple(
                words for name, words in HARMFUL.items() if bits & int(getattr(nvml, f"nvmlClocksThrottleReason{name}"))
            ),
            power_mode=None if limit is None else f"{limit / _MILLI:g} W limit",
        )

    return Watch(read, "nvml", close=nvml.nvmlShutdown)


# --- sysfs ---------------------------------------------------------------------------------------------------


def _jetson(root: Path) -> Watch | None:
    """A watch on a Jetson's integrated GPU, or None where this is none."""
    clock = _first(
        root.glob("sys/class/devfreq/*.gpu/cur_freq"),
        root.glob("sys/class/devfreq/*.g[av]1*b/cur_freq"),
        root.glob("sys/class/devfreq/gpu-gpc-0/cur_freq"),
    )
    if clock is None:
        return None
    memory = _first(root.glob("sys/kernel/debug/bpmp/debug/clk/emc/rate"))
    thermal = _zone(root, r"gpu|GPU")
    pairs = rails(root)

    def read() -> Sample:
        return Sample(
            clock_mhz=_number(clock, _HZ),
            memory_clock_mhz=_number(memory, _HZ),
            temperature_c=_number(thermal, _MILLI),
            power_w=rail_power(pairs),
            power_mode=power_mode(root),
        )

    return Watch(read, "jetson sysfs")


def _cpu(root: Path) -> Watch | None:
    """A watch on the processor's clocks and package temperature, or None where the kernel shows neither."""
    clocks = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    thermal = _zone(root, r"x86_pkg_temp|cpu|CPU")
    if not clocks and thermal is None:
        return None

    def read() -> Sample:
        found = [value for path in clocks if (value := _number(path, _KHZ)) is not None]
        governors = {text for path in clocks if (text := _text(path.with_name("scaling_governor")))}
        modes = [mode for mode in (power_mode(root), "+".join(sorted(governors))) if mode]
        return Sample(
            clock_mhz=max(found, default=None),
            temperature_c=_number(thermal, _MILLI),
            power_mode=", ".join(modes) or None,
        )

    return Watch(read, "cpu sysfs")


def _zone(root: Path, pattern: str) -> Path | None:
    """The temperature file of the first thermal zone whose type matches."""
    for kind in sorted(root.glob("sys/class/thermal/thermal_zone*/type")):
        if re.search(pattern, _text(kind) or ""):
            return kind.with_name("temp")
    return None


def rails(root: Path) -> list[tuple[Path, Path]]:
    """Voltage and current files (mV, mA) of the module's total input rail, else of every rail (INA3221)."""
    every, total = [], []
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[1-3]_label")):
        number = label.name[2]
        pair = (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
        every.append(pair)
        if re.search(r"VDD_IN|VIN_SYS|POM_5V_IN", _text(label) or ""):
            total.append(pair)
    return total or every


def rail_power(pairs: list[tuple[Path, Path]]) -> float | None:
    """Watts of the rails together; None where none answers."""
    watts = []
    for voltage, current in pairs:
        volts, amperes = _number(voltage, _MILLI), _number(current, _MILLI)
        if volts is not None and amperes is not None:
            watts.append(volts * amperes)
    return sum(watts) if watts else None


def power_mode(root: Path = Path("/")) -> str | None:
    """The nvpmodel mode by number and, where its table is there, by name: ``"0 MAXN"``."""
    status = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    table = _text(root / "etc/nvpmodel.conf") or ""
    name = re.search(rf"<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+?)\s*>", table)
    return f"{number} {name[1]}" if name else str(number)


def _first(*places: Any) -> Path | None:
    return next((path for place in places for path in sorted(place)), None)


def _number(path: Path | None, divisor: float) -> float | None:
    text = _text(path)
    try:
        return float(text) / divisor if text else None
    except ValueError:
        return None


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
