"""Facts of this machine's processor: its name, its instruction sets, and what they mean for INT8.

Read from the kernel's flags, never from the name: "AMD EPYC" stands for processors with and without VNNI. Under an
emulator (qemu-user) ``/proc/cpuinfo`` shows the host's flags; numpy asks the processor itself (CPUID), so what numpy
cannot see is not there.
"""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.files import sha256_bytes
from edgeship.results import Identity

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
X86 = ("x86_64", "amd64", "i686", "i386")
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""Flags of the instructions that add four uint8 × int8 products in 32 bits."""
RELEVANT = (
    "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""The kernel's flags that an inference library chooses its kernels by, on x86 and on ARM."""
_NUMPY = {"avx2": "AVX2", "fma": "FMA3", "f16c": "F16C", "avx512f": "AVX512F", "avx512_vnni": "AVX512VNNI"}
"""Flags that numpy reads from the processor itself, by its names for them."""
_WIDER = ("avx512", "avx_vnni", "amx")


@functools.cache
def name() -> str:
    """The processor's own name, such as ``Intel(R) Xeon(R) Platinum 8481C``."""
    for line in _lines(CPUINFO):
        if line.lower().startswith(("model name", "cpu model", "hardware")):
            return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Those of :data:`RELEVANT` that this processor has, in that order; empty where the system does not say."""
    told = next((line.split(":", 1)[1].split() for line in _lines(CPUINFO) if _is_flags(line)), [])
    return relevant(frozenset(told), seen_by_numpy())


def relevant(told: frozenset[str], seen: dict[str, bool]) -> tuple[str, ...]:
    """The relevant ones of the kernel's flags ``told``, less what the processor itself denies.

    Args:
        told: Flags as the kernel lists them.
        seen: numpy's names of features and whether the processor has them; unknown ones may be absent.
    """
    denied = {flag for flag, feature in _NUMPY.items() if flag in told and seen.get(feature, True) is False}
    if denied:  # the list is another processor's: nothing wider than what was seen is there either
        told = frozenset(flag for flag in told - denied if not flag.startswith(_WIDER))
    return tuple(flag for flag in RELEVANT if flag in told)


def seen_by_numpy() -> dict[str, bool]:
    """What numpy found by asking the processor (CPUID), by numpy's names."""
    core = getattr(np, "_core", None) or getattr(np, "core", None)
    found: dict[str, bool] = getattr(getattr(core, "_multiarray_umath", None), "__cpu_features__", {})
    return dict(found)


def is_x86(machine: str = "") -> bool:
    """Whether this machine, or the one named as ``platform.machine()`` does, is an x86."""
    return (machine or platform.machine()).lower() in X86


def saturates(flags: tuple[str, ...] | None = None, machine: str = "") -> bool:
    """Whether uint8 × int8 kernels add pairs of products in 16 bits here, where 255 · 127 · 2 does not fit.

    True of an x86 processor with AVX2 and without VNNI (the instruction is ``vpmaddubsw``). onnxruntime's SSE4 kernels
    widen first; ARM's multiply in 16 and add in 32 bits.
    """
    have = instruction_sets() if flags is None else flags
    return is_x86(machine) and "avx2" in have and not VNNI.intersection(have)


def missing_instructions(built: Identity, here: Identity) -> list[str]:
    """Why an engine measured on one processor is not the same on another: instruction sets that one of them lacks.

    A file that is laid out anew at each load (``built.portable``) may find more than it was measured with.
    """
    if built.platform != here.platform:
        return []
    if not built.instruction_sets and built.device != here.device and not built.portable:
        return [f"optimized for {built.device!r}, this is {here.device!r}"]
    gone = [flag for flag in built.instruction_sets if flag not in here.instruction_sets]
    found = []
    if gone:
        found.append(f"measured on {built.device!r} with {', '.join(gone)}, which this {here.device!r} lacks")
    more = [flag for flag in here.instruction_sets if flag not in built.instruction_sets]
    if more and built.instruction_sets and not built.portable:
        found.append(f"optimized for {built.device!r}, which lacks the {', '.join(more)} of this {here.device!r}")
    return found


def int8_words() -> str:
    """One sentence for people: what this processor does with INT8."""
    have = instruction_sets()
    vnni = [flag for flag in have if flag in VNNI]
    if vnni:
        return f"INT8 products are exact and fast here ({', '.join(vnni)})"
    if saturates():
        return (
            "this processor has AVX2 and no VNNI: onnxruntime's uint8 × int8 kernels would saturate in 16 bits; "
            "edgeship computes exactly instead, so that INT8 gains little over FP32, and also tries weights of 7 bits, "
            "which cannot saturate (candidates.reduced_range)"
        )
    dots = [flag for flag in have if flag in ("asimddp", "i8mm")]
    if dots:
        return f"INT8 products are exact and fast here ({', '.join(dots)})"
    return "INT8 products are exact here; the processor has no dot-product instructions, so they gain little"


def cores() -> int:
    """The cores that this process may use (its affinity)."""
    return len(affinity()) or os.cpu_count() or 1


def affinity() -> tuple[int, ...]:
    """The numbers of the cores that this process may use; empty where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def memory_mib() -> int | None:
    """The machine's memory in MiB; None where the system does not say."""
    return _told_mib("MemTotal:")


def free_memory_mib() -> int | None:
    """The memory in MiB that a process can have now without swapping; None where the system does not say."""
    return _told_mib("MemAvailable:")


def _told_mib(key: str) -> int | None:
    return next((int(line.split()[1]) // 1024 for line in _lines(MEMINFO) if line.startswith(key)), None)


def facts() -> dict[str, Any]:
    """What a measured time depends on besides the engine: machine, host, processor, cores, memory, instruction sets.

    The host is told apart by a hash: these facts travel with bundles, and its name is nobody's business.
    """
    return {
        "machine": platform.machine(),
        "host": sha256_bytes(platform.node().encode())[:12],
        "processor": name(),
        "cores": cores(),
        "affinity": list(affinity()),
        "memory_mib": memory_mib(),
        "instruction_sets": list(instruction_sets()),
    }


def _is_flags(line: str) -> bool:
    return line.lower().startswith(("flags", "features"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
