"""How numbers are written: three significant digits, a unit with every number, a dash for what was not measured."""

from __future__ import annotations

import math
import re

from edgeship.decide import rulebook
from edgeship.results import Rule

ABSENT = "–"
MINUS = "−"
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
    task, dot, own = name.rpartition(".")
    return f"{task}{dot}" + TITLES.get(own, own.replace("_", " "))


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


def rule_quantity(rule: Rule, value: float | None, *, share: bool = True) -> str:
    """A rule's measured value, bound or limit as its family is written.

    Args:
        rule: The rule; a unit of its own goes before that of its family.
        value: The number.
        share: For drops: whether the metric is a share.
    """
    family = rulebook.of(rule.name)
    if value is None:
        return ABSENT
    if family.quantity == "milliseconds":
        return milliseconds(value)
    if family.quantity == "level":
        return metric_value(value, share=share)
    if family.quantity == "drop":
        return drop_value(value, share=share)
    if family.quantity == "ratio":
        return times(value)
    if family.quantity == "count":
        return f"{value:.0f}"
    if family.quantity == "share":
        return percent(value, 1)
    unit = rule.unit or family.unit
    return significant(value) + (f"\u00a0{unit}" if unit else "")


def rule_title(name: str) -> str:
    """A rule's name in words: ``latency_p99_ms`` → ``Latency p99``, ``max_drop.top1`` → ``Drop of top-1``."""
    return rulebook.of(name).title.format(metric_title(rulebook.subject_of(name)))
