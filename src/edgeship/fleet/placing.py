"""Which worker serves which label of which model, decided before anything runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeship.errors import UserInputError
from edgeship.fleet.config import Fleet
from edgeship.text import did_you_mean
from edgeship.version import __version__

CLOCK_S = 60.0
"""Clocks that are further apart are told."""


@dataclass(frozen=True)
class Placed:
    """Model → label → workers, the preferred one first; and what was noticed, in sentences."""

    assigned: dict[str, dict[str, tuple[str, ...]]]
    notes: tuple[str, ...] = ()


def place(fleet: Fleet, workers: Mapping[str, Mapping[str, Any]], now: float | None = None) -> Placed:
    """Spread the models' labels over the workers that have them.

    Args:
        fleet: Models, devices, matrix.
        workers: What every worker says of itself, by name.
        now: This machine's clock, in seconds since 1970.

    Raises:
        UserInputError: A label that no usable worker has; says who has what.
    """
    notes = list(_unusable(workers))
    usable = {name: told for name, told in workers.items() if told["edgeship"] == __version__}
    notes += _clocks(usable, time.time() if now is None else now)
    serving: dict[str, list[str]] = {}
    missing = []
    for label in fleet.labels():
        serving[label], said = _equal(label, [name for name, told in usable.items() if label in told["labels"]], usable)
        notes += said
        missing += [label] if not serving[label] else []
    if missing:
        known = sorted({label for told in usable.values() for label in told["labels"]})
        has = "; ".join(f"{name}: {', '.join(told['labels'])}" for name, told in usable.items()) or "there is no worker"
        raise UserInputError(
            f"no worker has the label {', '.join(did_you_mean(label, known) for label in missing)}"
            + "".join(f"\n  {note}" for note in notes),
            expected=f"labels that workers have ({has})",
            do="start one: edgeship worker ADDRESS --labels LABEL, or correct the matrix",
        )
    load: Counter[str] = Counter()
    assigned: dict[str, dict[str, tuple[str, ...]]] = {}
    for model, labels in fleet.matrix.items():
        for label in labels:
            order = sorted(serving[label], key=lambda name: (load[name], name))
            load[order[0]] += 1
            assigned.setdefault(model, {})[label] = tuple(order)
    return Placed(assigned, tuple(notes))


def _unusable(workers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, told in workers.items():
        if told["edgeship"] != __version__:
            yield f"{name} is left out: it has edgeship {told['edgeship']}, this is {__version__}"


def _clocks(workers: Mapping[str, Mapping[str, Any]], now: float) -> Iterator[str]:
    for name, told in workers.items():
        apart = float(told["clock"]) - now
        if abs(apart) > CLOCK_S:
            way = "ahead of" if apart > 0 else "behind"
            yield f"the clock of {name} is {abs(apart) / 60:.0f} minutes {way} this machine's: set it, times mislead"


def _equal(label: str, names: list[str], workers: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The workers of a label with the same software, the most there are; the others are left out and told."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        told = workers[name]
        kinds.setdefault(repr((told["machine"], sorted(told["packages"].items()), bool(told["host"]))), []).append(name)
    if len(kinds) < 2:
        return sorted(names), []
    kept = max(kinds.values(), key=len)
    notes = []
    for others in kinds.values():
        if others is not kept:
            here, there = workers[kept[0]]["packages"], workers[others[0]]["packages"]
            differ = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
            said = ", ".join(f"{key} {there.get(key, 'absent')} instead of {here.get(key, 'absent')}" for key in differ)
            said = said or f"a {workers[others[0]]['machine']} machine"
            notes.append(f"{', '.join(others)} left out of {label!r}: {said}; {', '.join(kept)} serve it")
    return kept, notes
