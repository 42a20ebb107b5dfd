"""Values of edgeship.toml with a form of their own: devices, steps of a repair, a release to compare with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError('is not a device; use "cpu", or "cuda:0" for the first GPU')
    return name


def _target_device(name: str) -> str:
    if not re.fullmatch(r"cpu|npu|(cuda|gpu)(:\d+)?", name):
        raise ValueError('is not a device; use "cpu", or "cuda:0" for the first GPU ("gpu" and "npu" are OpenVINO\'s)')
    return name


Device = Annotated[str, AfterValidator(_device)]
"""``cpu``, ``cuda:0``, ``cuda:1``, …; ``cuda`` is ``cuda:0``."""
TargetDevice = Annotated[str, AfterValidator(_target_device)]
"""The same, and Intel's ``gpu``, ``gpu:1``, ``npu`` with OpenVINO."""
REPAIRS = ("equalize", "smooth", "bias-correct", "adaround")
"""Steps that repair INT8 without training."""


def _repair(steps: str) -> str:
    named = steps.split("+")
    wrong = [step for step in named if step not in REPAIRS]
    if wrong or len(set(named)) < len(named):
        raise ValueError(f"{steps!r}: write {', '.join(REPAIRS)}, or several of them, each once, joined by +")
    return steps


Repair = Annotated[str, AfterValidator(_repair)]
"""A step, or several in their order: ``equalize+bias-correct``."""
Released = Annotated[
    Literal["last"] | Annotated[str, Field(pattern=r"^history:[0-9]+(/.+)?$")] | Path, Field(union_mode="left_to_right")
]
"""A bundle's path; ``last`` or ``history:12`` (or ``history:12/orin``, its target) names an entry of the history."""
