"""How numbers are written: three significant digits, a unit with every number, a dash for what was not measured."""

from __future__ import annotations

import math
import re

ABSENT = "–"
MINUS = "−"
AT_LEAST = ("min_", "speedup", "throughput", "audit", "rebuilds")
"""Beginnings of the names of rules that hold a lower limit; all others hold an upper one."""
TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "map": "mAP",
    "map50": "mAP50",
    "map75": "mAP75",
    "map_small": "mAP small",
    "map_medium": "mAP medium",
    "map_large": "mAP large",
    "ar": "AR",
    "ap": "AP",
    "ap50": "AP50",
    "miou": "mIoU",
    "iou": "IoU",
}


def significant(value: float | None, digits: int = 3) -> str:
    """``value`` with so many significant digits, no exponent between 1e-4 and 1e6; a real minus sign."""
    if value is None:
        return ABSENT
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else MINUS + "∞"
    if value == 0:
        return "0"
    size = abs(value)
    if not 1e-4 <= size < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    exponent = math.floor(math.log10(float(f"{size:.{digits - 1}e}")))
    text = f"{size:,.{max(digits - 1 - exponent, 0)}f}"
    return (MINUS if value < 0 else "") + text


def fixed(value: float | None, places: int, *, sign: bool = False) -> str:
    """``value`` with so many decimal places."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return significant(value)
    text = f"{abs(value):,.{places}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def tidy(text: str) -> str:
    """A quantity that the user set, without the zeros that only precision would earn: ``33.00 ms`` → ``33 ms``."""
    return re.sub(r"(\.\d*?)0+(?=\D|$)", lambda found: found[1] if found[1] != "." else "", text)


def milliseconds(value: float | None, *, unit: bool = True) -> str:
    """Milliseconds at three significant digits, two decimal places at least above 1 ms."""
    if value is None:
        return ABSENT
    text = significant(value) if abs(value) < 1 else fixed(value, 2 if abs(value) < 100 else 1)
    return f"{text}\u00a0ms" if unit else text


def seconds(value: float | None) -> str:
    """A duration for people: ``8.13 ms``, ``0.42 s``, ``12.3 s``, ``3 min 05 s``."""
    if value is None:
        return ABSENT
    if 0 < value < 0.1:
        return milliseconds(value * 1000)
    if value < 60:
        return f"{fixed(value, 2 if value < 10 else 1)}\u00a0s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h {minutes:02d}\u00a0min" if hours else f"{minutes}\u00a0min {rest:02d}\u00a0s"


def size(bytes_: float | None) -> str:
    """A file size in KiB or MiB."""
    if bytes_ is None:
        return ABSENT
    kib = bytes_ / 1024
    return f"{significant(kib)}\u00a0KiB" if kib < 1000 else f"{significant(kib / 1024)}\u00a0MiB"


def percent(value: float | None, places: int = 2) -> str:
    """A share 0..1 as a percentage."""
    return ABSENT if value is None else f"{fixed(value * 100, places)}\u00a0%"


def points(value: float | None, places: int = 2, *, unit: bool = True) -> str:
    """A drop between shares in percentage points, with its sign: positive is worse."""
    if value is None:
        return ABSENT
    return fixed(value * 100, places, sign=True) + ("\u00a0pp" if unit else "")


def times(value: float | None) -> str:
    """A ratio: ``2.31×``."""
    return ABSENT if value is None else f"{significant(value)}×"


def metric_title(name: str) -> str:
    """How the field writes a metric: ``top1`` → ``top-1``."""
    return TITLES.get(name, name.replace("_", " "))


def is_share(values: list[float]) -> bool:
    """Whether a metric's values are shares, to be written as percentages."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and all(0 <= value <= 1 for value in finite)


def metric_value(value: float | None, *, share: bool) -> str:
    """A metric: a percentage where it is a share, else four digits."""
    return percent(value) if share else significant(value, 4)


def drop_value(value: float | None, *, share: bool) -> str:
    """A drop: percentage points where the metric is a share, else four digits with a sign."""
    if value is None or share:
        return points(value)
    return ("+" if value > 0 else "") + significant(value, 4)


def at_least(rule: str) -> bool:
    """Whether a rule's limit is a lower one."""
    return rule.startswith(AT_LEAST)


def rule_quantity(rule: str, value: float | None, unit: str, *, share: bool = True) -> str:
    """A rule's measured value, bound or limit in the unit that suits the rule.

    Args:
        rule: The rule's name, such as ``latency_p99_ms`` or ``max_drop.top1``.
        unit: As the rule gives it.
        share: For drops: whether the metric is a share.
    """
    if value is None:
        return ABSENT
    if rule.startswith("latency") or unit == "ms":
        return milliseconds(value)
    if rule.startswith(("max_drop", "critical")):
        return drop_value(value, share=share)
    if rule.startswith("speedup") or unit in ("x", "×"):
        return times(value)
    if rule == "rebuilds":
        return f"{value:.0f}"
    if rule.startswith(("min_agreement", "audit")):
        return percent(value, 1)
    return significant(value) + (f"\u00a0{unit}" if unit else "")


def rule_title(rule: str) -> str:
    """A rule's name in words: ``latency_p99_ms`` → ``Latency p99``."""
    head, _, tail = rule.partition(".")
    if head == "max_drop":
        return f"Drop of {metric_title(tail)}"
    if head == "critical":
        return f"Critical class {tail}"
    words = {
        "latency_p50_ms": "Latency p50",
        "latency_p90_ms": "Latency p90",
        "latency_p99_ms": "Latency p99",
        "speedup_over_fp32": "Speed-up over fp32",
        "throughput_min": "Throughput",
        "min_agreement": "Agreement with the reference",
        "max_engine_mib": "Engine size",
        "max_memory_mib": "Peak memory",
        "audit": "Achieved precision",
        "rebuilds": "Builds of the engine",
    }
    return words.get(rule) or rule.replace("_", " ").replace(".", " ").capitalize()
