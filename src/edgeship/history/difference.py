"""What changed between two entries of a history: rules and figures by target and candidate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from edgeship.history.entry import Entry, KeptFigure, KeptRule
from edgeship.results import Result

Key = tuple[str, str, str]
"""Target, candidate, name."""
K = TypeVar("K", KeptRule, KeptFigure)


class Moved(Result):
    """One rule or figure in two runs; None where a run has none."""

    target: str
    candidate: str
    name: str
    before: float | None
    after: float | None
    outcome: tuple[str, ...] = ()
    """Of a rule, in both runs."""


class Difference(Result):
    """What changed from one entry to another. Nothing is judged: ``edgeship compare`` has the statistics."""

    entries: tuple[int, int]
    verdicts: tuple[str, str]
    facts: tuple[str, ...]
    """What the two runs were made from, where it differs: ``model sha256: 3f… → 8a…``."""
    moved: tuple[Moved, ...]
    """What both runs have, and differs."""
    only_before: tuple[str, ...] = ()
    """Candidates as ``target/candidate``."""
    only_after: tuple[str, ...] = ()


def difference(before: Entry, after: Entry) -> Difference:
    """What changed; where both runs have one target, candidates are matched by name alone."""
    alone = len(before.targets) == 1 == len(after.targets)
    rename = {after.targets[0].name: before.targets[0].name} if alone else {}
    rules = _by_key(before.rules, {}), _by_key(after.rules, rename)
    figures = _by_key(before.figures, {}), _by_key(after.figures, rename)
    moved = [_moved(key, one, rules[1][key]) for key, one in rules[0].items() if key in rules[1]]
    moved += [_moved(key, one, figures[1][key]) for key, one in figures[0].items() if key in figures[1]]
    held = [list(dict.fromkeys(key[:2] for key in (*rules[side], *figures[side]))) for side in (0, 1)]
    return Difference(
        entries=(before.number, after.number),
        verdicts=(before.verdict, after.verdict),
        facts=tuple(_facts(before, after)),
        moved=tuple(item for item in moved if item.before != item.after or len(set(item.outcome)) > 1),
        only_before=tuple("/".join(place) for place in held[0] if place not in held[1]),
        only_after=tuple("/".join(place) for place in held[1] if place not in held[0]),
    )


def _moved(key: Key, before: KeptRule | KeptFigure, after: KeptRule | KeptFigure) -> Moved:
    target, candidate, name = key
    outcome = tuple(item.outcome for item in (before, after) if isinstance(item, KeptRule))
    values = [item.measured if isinstance(item, KeptRule) else item.value for item in (before, after)]
    name = f"rule {name}" if outcome else name
    return Moved(target=target, candidate=candidate, name=name, before=values[0], after=values[1], outcome=outcome)


def _by_key(items: Iterable[K], rename: dict[str, str]) -> dict[Key, K]:
    return {(rename.get(item.target, item.target), item.candidate, item.name): item for item in items}


def _facts(before: Entry, after: Entry) -> Iterable[str]:
    for name in ("model", "version", "commit", "edgeship"):
        one, two = getattr(before, name), getattr(after, name)
        if one != two:
            yield f"{name}: {_short(one)} → {_short(two)}"
    for name in dict.fromkeys((*before.digests, *after.digests)):
        one, two = before.digests.get(name, ""), after.digests.get(name, "")
        if one != two:
            yield f"{name}: {_short(one)} → {_short(two)}"
    for item in after.targets:
        other = before.target(item.name) or (before.targets[0] if len(before.targets) == 1 else None)
        if other is None:
            continue
        for name in ("engine", "engine_version", "device"):
            one, two = getattr(other, name), getattr(item, name)
            if one != two:
                yield f"{item.name}: {name.replace('_', ' ')} {_short(one)} → {_short(two)}"


def _short(text: str) -> str:
    """A commit or digest by its first characters; ``nothing`` where there is none."""
    if not text:
        return "nothing"
    return text[:12] if len(text) in (40, 64) and text.isalnum() else text
