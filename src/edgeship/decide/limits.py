"""What a gate's own limits say that the data cannot mean: names that are not there, directions, percents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeship import metrics
from edgeship.config import Gate
from edgeship.decide.loaded_trial import Arrays
from edgeship.errors import UserInputError
from edgeship.text import nearest


def unknown_names(gate: Gate, metric_names: Sequence[str] | None, classes: Sequence[str] | None) -> list[str]:
    """What the gate names that is not there, one sentence each with the nearest name; None: not known yet."""
    problems = []
    if metric_names is not None:
        for table, named in (("max_drop", gate.max_drop), ("min", gate.min), ("max", gate.max)):
            for name in named:
                if name not in metric_names:
                    problems.append(f"gate.{table}.{name}: no such metric; {_nearest(name, metric_names)}")
    if classes is not None:
        for table, limits in (("critical", gate.critical), ("critical_min", gate.critical_min)):
            for name in limits:
                if name not in classes:
                    problems.append(f"gate.{table}.{name}: no such class; {_nearest(name, classes)}")
    return problems


def unknown_class_metric(gate: Gate, task: metrics.Task) -> list[str]:
    """Why the critical classes cannot be judged: their metric is none that the task measures of a class."""
    if not gate.critical and not gate.critical_min:
        return []
    known = task.CLASS_METRICS
    if known is None:
        return []
    if not known:
        return ["gate.critical: this task measures nothing of a class; use gate.max_drop"]
    named = gate.critical_metric
    if named in ("auto", *known):
        return []
    return [f"gate.critical_metric: {named!r} is not a metric of this task's classes; use {' or '.join(known)}"]


def refuse_direction(gate: Gate, records: Arrays) -> None:
    """Refuse a floor of a metric of which less is better, and a ceiling of one of which more is."""
    for table, named, less in (("min", gate.min, True), ("max", gate.max, False)):
        for name in named:
            if metrics.lower_is_better(records, name) == less:
                other = "max" if less else "min"
                raise UserInputError(
                    f"gate.{table}.{name}: {'less' if less else 'more'} is better of {name}",
                    expected=f"gate.{other}.{name}, or gate.max_drop.{name} against the reference",
                    do=f"move it to gate.{other}",
                )


def refuse_percents(gate: Gate, records: Arrays) -> None:
    """Refuse a limit of 1 and more for a number of one's own that never leaves 0 to 1."""
    for name, limit in gate.max_drop.items():
        values = records.get(f"value/{name}")
        if limit < 1 or values is None or not np.isfinite(values).any():
            continue
        if np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
            raise UserInputError(
                f"gate.max_drop.{name} = {limit:g} allows everything: all values lie between 0 and 1",
                expected="a share below 1",
                do=f"write {limit / 100:g} for {limit:g} %",
            )


def _nearest(name: str, known: Sequence[str]) -> str:
    close = nearest(name, known)
    if close:
        return f"did you mean {close!r}?"
    return f"known here: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}" if known else "none is known here"
