"""What else the machine did while something was measured: other processes, a hypervisor, a container's quota.

Read before and after from ``/proc`` and the process's own counters; what cannot be read is absent. A busy machine makes
times longer, never shorter: it can spoil a failed budget, not a kept one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from edgeship.engines import processor
from edgeship.results import MachineLoad

MIN_S = 0.5
"""Shortest measurement that the kernel's counters (10 ms) say anything about."""
OTHERS_CORES, OTHERS_SHARE = 0.25, 0.05
"""Others are too many above so many cores, and above this share of the cores that this process may use."""
STEAL_SHARE = 0.02
SWITCHES_PER_S = 50.0
_BUSY = (0, 1, 2, 5, 6)
"""user, nice, system, irq, softirq in a ``cpu`` line of /proc/stat; the eighth is steal."""
_STEAL = 7


@dataclass(frozen=True)
class Counters:
    """Readings of one moment; None where the system does not tell."""

    wall_s: float
    cpu_s: float
    switches: int | None
    busy_s: float | None
    """Seconds that the cores of this process were at work, over all of them."""
    steal_s: float | None
    throttled: int | None
    """How often the container's quota stopped its processes."""
    load: float | None
    """Processes that want to run, averaged over a minute."""


def read_counters(root: Path = Path("/")) -> Counters:
    """The counters now. ``root``: where ``proc`` and ``sys`` are; another place for a recorded tree."""
    switches: int | None = None
    try:
        import resource
    except ImportError:  # not on this system
        pass
    else:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    busy, steal = _core_times(root / "proc/stat")
    return Counters(
        wall_s=time.monotonic(),
        cpu_s=time.process_time(),
        switches=switches,
        busy_s=busy,
        steal_s=steal,
        throttled=_throttled(root / "sys/fs/cgroup/cpu.stat"),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def load_between(before: Counters, after: Counters, cores: int | None = None) -> MachineLoad:
    """What happened between two readings, and whether the machine was busy.

    Args:
        before: At the start of the measurement.
        after: At its end.
        cores: That this process may use; default: its affinity.
    """
    wall = after.wall_s - before.wall_s
    cores = cores or processor.cores()
    if wall < MIN_S:
        return MachineLoad(load=after.load)
    own = (after.cpu_s - before.cpu_s) / wall
    at_work = _rate(before.busy_s, after.busy_s, wall)
    steal = _rate(before.steal_s, after.steal_s, wall)
    switches = None if before.switches is None or after.switches is None else after.switches - before.switches
    throttled = None if before.throttled is None or after.throttled is None else after.throttled - before.throttled
    found = MachineLoad(
        cpu_share=round(own, 3),
        others_cores=None if at_work is None else round(max(at_work - own, 0.0), 3),
        steal_share=None if steal is None else round(steal / cores, 4),
        involuntary_switches=switches,
        throttled=throttled,
        load=after.load,
    )
    return found.model_copy(update={"busy": _why_busy(found, wall, cores)})


def _why_busy(found: MachineLoad, wall: float, cores: int) -> str:
    """What disturbed the measurement; empty when nothing did."""
    said = []
    if found.throttled:
        said.append(f"the container's CPU quota stopped it {found.throttled} times")
    if found.steal_share is not None and found.steal_share > STEAL_SHARE:
        said.append(f"the hypervisor gave {found.steal_share:.0%} of the processor to others")
    others = found.others_cores
    if others is not None and others > max(OTHERS_CORES, OTHERS_SHARE * cores):
        said.append(f"other processes used {others:.1f} of {cores} cores")
    switches = found.involuntary_switches
    if switches is not None and switches / wall > SWITCHES_PER_S:
        said.append(f"it was interrupted {switches / wall:.0f} times a second")
    return "; ".join(said)


def _rate(before: float | None, after: float | None, wall: float) -> float | None:
    return None if before is None or after is None else (after - before) / wall


def _core_times(path: Path) -> tuple[float | None, float | None]:
    """Seconds at work and stolen, summed over the cores that this process may use."""
    allowed = set(processor.affinity())
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    busy = steal = 0.0
    seen = False
    for line in _text(path).splitlines():
        name, *values = line.split() or [""]
        if not name.startswith("cpu") or not name[3:].isdigit() or (allowed and int(name[3:]) not in allowed):
            continue
        if len(values) <= _STEAL:
            continue
        seen = True
        busy += sum(int(values[place]) for place in _BUSY) / ticks
        steal += int(values[_STEAL]) / ticks
    return (busy, steal) if seen else (None, None)


def _throttled(path: Path) -> int | None:
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if name == "nr_throttled" and value.strip().isdigit():
            return int(value)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
