"""Counts values by histogram bin on many threads at once, by a loop that LLVM makes for this processor.

numpy's ``bincount`` holds Python's lock part of the time, so that the threads of a calibration wait for one another,
and is several times slower on one thread too. The loop is handed to LLVM as it stands, without numba, whose start would
take longer than many a calibration: it is there a tenth of a second after it was asked for, and nothing needs to be
kept. Both give the same counts to the last one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float32]
Loop = Callable[[int, int, float, float, int, int, int], None]
"""Addresses of the values, the lanes and the counts: values, how many, scale, offset, lanes, counts, bins."""

CHUNK = 1 << 18
"""Values binned at a time by numpy. Small enough to stay in a core's cache, large enough that threads seldom hand
Python's lock to each other: with ``1 << 15`` two threads were no faster than one (2.9 ns a value), with this they are
(2.0 ns)."""
LARGEST = 1 << 31
"""Values in one call of the loop: its counters have 32 bits."""
LANES = 4
"""Counters of each bin in the loop, because the next addition to one waits for the last: most values of an activation
lie in a few bins."""
WIDTH = 16
"""Values whose bins the loop computes at a time; LLVM cuts them to the width of the processor's registers."""
FOLD = 8
"""Bins whose lanes are added at a time; the number of bins is a multiple of it."""


class Scratch:
    """Buffers of one thread.

    ``loop``: what counts; None: numpy.
    """

    def __init__(self, loop: Loop | None = None) -> None:
        self._loop = loop
        self._lanes = np.zeros(0, np.uint32)
        self._buffers: tuple[Floats, NDArray[np.int32], Counts] | None = None

    def add(self, values: Floats, scale: np.float32, offset: int, counts: Counts) -> None:
        """Add to ``counts`` the bins ``floor(value * scale) + offset`` of finite values.

        Exact: ``scale`` is a power of two, and whole numbers up to 8,192 are exact in float32. (A negative subnormal
        that the product rounds to zero lands in the bin above zero.)

        Args:
            values: float32 [n], contiguous.
            offset: 0 only where no value is below zero.
            counts: int64, contiguous, changed in place; a multiple of :data:`FOLD`.
        """
        step = CHUNK if self._loop is None else LARGEST
        for start in range(0, values.size, step):
            part = values[start : start + step]
            if self._loop is None:
                found = self._bincount(part, scale, offset)
                counts[: found.size] += found
                continue
            if self._lanes.size < LANES * counts.size:
                self._lanes = np.zeros(LANES * counts.size, np.uint32)
            places = part.ctypes.data, self._lanes.ctypes.data, counts.ctypes.data
            self._loop(places[0], part.size, float(scale), float(offset), places[1], places[2], counts.size)

    def _bincount(self, values: Floats, scale: np.float32, offset: int) -> Counts:
        """Counts that end at the last bin in use. By way of int32, because float32 to int64 is slow."""
        if self._buffers is None:
            self._buffers = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.int32), np.empty(CHUNK, np.int64)
        scaled, narrow, index = (buffer[: values.size] for buffer in self._buffers)
        np.multiply(values, scale, out=scaled)
        if offset:
            np.floor(scaled, out=scaled)
            np.add(scaled, np.float32(offset), out=scaled)
        np.copyto(narrow, scaled, casting="unsafe")
        np.copyto(index, narrow)
        return np.bincount(index)


@lru_cache(maxsize=1)
def compiled() -> Loop | None:
    """The loop as machine code for this processor, called without Python's lock; None where llvmlite is not installed
    or its LLVM cannot make code here."""
    try:
        from llvmlite import binding as llvm
    except (ImportError, OSError):
        return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
        )
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_source()), machine)
        engine.finalize_object()
    except RuntimeError:
        return None
    number, real, place = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    made: Any = ctypes.CFUNCTYPE(None, place, number, real, real, place, place, number)
    loop: Any = made(engine.get_function_address("count"))
    loop.engine = engine  # the code lives as long as this
    return loop  # type: ignore[no-any-return]


def _source() -> str:
    """The loop in LLVM's language. Every bin has :data:`LANES` counters, taken in turns and added to the counts, and
    back at zero, at the end."""
    many, whole, fold = f"<{WIDTH} x float>", f"<{WIDTH} x i32>", f"<{FOLD} x i64>"
    one_each = "\n".join(_one(f"%w{n}", f"extractelement {whole} %index, i64 {n}", n % LANES) for n in range(WIDTH))
    lanes = "\n".join(f"  %lane{n} = getelementptr i32, ptr %lanes, i64 %size{n}" for n in range(LANES))
    sizes = "\n".join(f"  %size{n} = mul i64 %bins, {n}" for n in range(LANES))
    added = "\n".join(
        f"""  %fp{n} = getelementptr i32, ptr %lane{n}, i64 %b
  %fv{n} = load <{FOLD} x i32>, ptr %fp{n}, align 4
  store <{FOLD} x i32> zeroinitializer, ptr %fp{n}, align 4
  %fw{n} = zext <{FOLD} x i32> %fv{n} to {fold}
  %sum{n + 1} = add {fold} %sum{n}, %fw{n}"""
        for n in range(LANES)
    )
    return f"""
declare {many} @llvm.floor.v{WIDTH}f32({many})
declare float @llvm.floor.f32(float)

define void @count(ptr %values, i64 %size, float %scale, float %offset, ptr %lanes, ptr %counts, i64 %bins) {{
entry:
{sizes}
{lanes}
  %s = insertelement {many} poison, float %scale, i64 0
  %scales = shufflevector {many} %s, {many} poison, {whole} zeroinitializer
  %o = insertelement {many} poison, float %offset, i64 0
  %offsets = shufflevector {many} %o, {many} poison, {whole} zeroinitializer
  %full = and i64 %size, -{WIDTH}
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %inext, %body ]
  %more = icmp ult i64 %i, %full
  br i1 %more, label %body, label %rest
body:
  %vp = getelementptr float, ptr %values, i64 %i
  %v = load {many}, ptr %vp, align 4
  %vs = fmul {many} %v, %scales
  %vf = call {many} @llvm.floor.v{WIDTH}f32({many} %vs)
  %vo = fadd {many} %vf, %offsets
  %index = fptosi {many} %vo to {whole}
{one_each}
  %inext = add i64 %i, {WIDTH}
  br label %head
rest:
  %j = phi i64 [ %full, %head ], [ %jnext, %single ]
  %left = icmp ult i64 %j, %size
  br i1 %left, label %single, label %fold
single:
  %xp = getelementptr float, ptr %values, i64 %j
  %x = load float, ptr %xp, align 4
  %xs = fmul float %x, %scale
  %xf = call float @llvm.floor.f32(float %xs)
  %xo = fadd float %xf, %offset
{_one("%xw", "fptosi float %xo to i32", 0)}
  %jnext = add i64 %j, 1
  br label %rest
fold:
  %b = phi i64 [ 0, %rest ], [ %bnext, %adding ]
  %some = icmp ult i64 %b, %bins
  br i1 %some, label %adding, label %end
adding:
  %cp = getelementptr i64, ptr %counts, i64 %b
  %sum0 = load {fold}, ptr %cp, align 8
{added}
  store {fold} %sum{LANES}, ptr %cp, align 8
  %bnext = add i64 %b, {FOLD}
  br label %fold
end:
  ret void
}}
"""


def _one(name: str, index: str, lane: int) -> str:
    """One more in the bin of one value."""
    return f"""  {name} = {index}
  {name}l = zext i32 {name} to i64
  {name}p = getelementptr i32, ptr %lane{lane}, i64 {name}l
  {name}c = load i32, ptr {name}p, align 4
  {name}n = add i32 {name}c, 1
  store i32 {name}n, ptr {name}p, align 4"""
