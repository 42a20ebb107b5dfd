"""Models with memory: an output of one step is an input of the next, from the first frame of a sequence to its last.

The config names the pairs in ``[state]``; ``evaluation.group`` says which frames are one sequence; within a sequence
the frames are in the order of their names, numbers as numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Evaluation, Preprocess
from edgeship.data import rows
from edgeship.data.groups import FIELD, group_names
from edgeship.data.loader import Item
from edgeship.errors import DataError, OutputError
from edgeship.results import TensorInfo
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Infer = Callable[[Mapping[str, "Array"]], Mapping[str, "Array"]]


class Memories:
    """What a model remembers of the sequence so far.

    Args:
        inputs: The model's inputs.
        preprocess: Its ``state`` names the pairs of input and output. Without any, nothing is remembered.

    Raises:
        DataError: An input that is named has a dynamic axis beside the batch.
    """

    def __init__(self, inputs: Sequence[TensorInfo], preprocess: Preprocess) -> None:
        by_name = {info.name: info for info in inputs}
        self._state = {item.origin: item for item in preprocess.state.values()}
        self._infos = {name: by_name[name] for name in self._state}
        self._first = {name: initial(info, self._state[name].init) for name, info in self._infos.items()}
        self._now = dict(self._first)
        self._sequence: str | None = None

    def __bool__(self) -> bool:
        return bool(self._state)

    def reset(self) -> None:
        """Forget: the next frame is the first of a sequence."""
        self._now, self._sequence = dict(self._first), None

    def begin(self, sequence: str) -> None:
        """Forget where the next frame is of another sequence than the last one."""
        if sequence != self._sequence:
            self.reset()
            self._sequence = sequence

    def feeds(self) -> dict[str, Array]:
        """The memory as inputs of the next step."""
        return dict(self._now)

    def take(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Remember what a step gave; returns its other outputs.

        Raises:
            OutputError: The memory that came out has not the shape or the type of the input.
        """
        for name, item in self._state.items():
            if item.result not in outputs:
                raise OutputError(
                    f"state: the model has no output {did_you_mean(item.result, list(outputs))}",
                    expected=f"one of {', '.join(outputs)}",
                )
            found, wanted = outputs[item.result], self._now[name]
            if found.shape != wanted.shape or found.dtype != wanted.dtype:
                raise OutputError(
                    f"state: the output {item.result!r} is {found.dtype} {list(found.shape)}, the input {name!r} takes "
                    f"{wanted.dtype} {list(wanted.shape)}",
                    expected="a memory whose shape and type stay",
                    do="export the model so that both are the same, or name the right output in [state]",
                )
            self._now[name] = np.array(found)
        given = {item.result for item in self._state.values()}
        return {name: value for name, value in outputs.items() if name not in given}

    def step(
        self, infer: Infer, feeds: Mapping[str, Array], sequence: str
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """One frame of a sequence: the feeds with the memory that stands before it, and the outputs beside it."""
        self.begin(sequence)
        whole = {**feeds, **self.feeds()}
        return whole, self.take(infer(whole))


def initial(info: TensorInfo, value: float) -> Array:
    """The memory before the first frame: ``value`` everywhere, of one frame."""
    shape = [1 if place == 0 and isinstance(axis, str) else axis for place, axis in enumerate(info.shape)]
    if any(isinstance(axis, str) for axis in shape):
        raise DataError(
            f"state: the input {info.name!r} has the dynamic shape {list(info.shape)}",
            expected="a memory of one size, with or without a batch axis",
            do="export the model at a fixed size",
        )
    return np.full([int(axis) for axis in shape], value, dtype=info.dtype)


def require_pairs(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], preprocess: Preprocess) -> None:
    """Refuse pairs that the graph does not have, or whose declared shapes or types differ.

    Raises:
        DataError: Names the pair.
    """
    known, given = ({info.name: info for info in tensors} for tensors in (inputs, outputs))
    fed = {name: f"[inputs.{name}]" for name in preprocess.inputs}
    for key, item in preprocess.state.items():
        if item.origin in fed:
            raise DataError(
                f"state.{key}: the input {item.origin!r} is fed by {fed[item.origin]} already",
                expected="one declaration of each input",
                do="remove one of the two",
            )
        fed[item.origin] = f"state.{key}"
        for kind, name, tensors in (("input", item.origin, known), ("output", item.result, given)):
            if name not in tensors:
                raise DataError(
                    f"state.{key}: the model has no {kind} {did_you_mean(name, list(tensors))}",
                    expected=f"one of {', '.join(tensors)}",
                )
        before, after = known[item.origin], given[item.result]
        fits = len(before.shape) == len(after.shape) and all(
            one == other or isinstance(one, str) or isinstance(other, str)
            for one, other in zip(before.shape, after.shape, strict=True)
        )
        if not fits or before.dtype != after.dtype:
            raise DataError(
                f"state.{key}: the input {before.name!r} is {before.dtype} {list(before.shape)}, the output "
                f"{after.name!r} is {after.dtype} {list(after.shape)}",
                expected="a memory whose shape and type stay",
            )
        initial(before, item.init)


def sequence_of(rule: str | None) -> Callable[[str], str]:
    """From a frame's path to its sequence where it has no label: by ``evaluation.group``, else its folder."""
    if rule is None or rule.startswith(FIELD):
        return lambda name: PurePosixPath(name).parent.as_posix()
    settings = Evaluation(group=rule)
    return lambda name: (group_names(settings, [name]) or [""])[0]


NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
"""What counts as a number in a frame's name: digits, or seconds with a fraction."""


def counters(names: Sequence[str]) -> frozenset[int]:
    """Places in split names where a point separates two numbers, as in ``clip1.9`` and ``clip1.10``, not a fraction:
    what follows it has several lengths and ends in 0 at least once, which fractions of several lengths do not."""
    behind: dict[int, set[str]] = {}
    for name in names:
        for place, part in enumerate(NUMBER.split(name)):
            if place % 2 and "." in part:
                behind.setdefault(place, set()).add(part.partition(".")[2])
    return frozenset(
        place
        for place, found in behind.items()
        if len(set(map(len, found))) > 1 and any(digits.endswith("0") and len(digits) > 1 for digits in found)
    )


def in_time(name: str, apart: Container[int] = frozenset()) -> tuple[tuple[str | tuple[Decimal, ...], ...], str]:
    """The key by which the frames of a sequence are in order: numbers in their names count as numbers, so that
    ``2.png`` comes before ``10.png``. ``apart``: :func:`counters` of the sequence."""
    parts = enumerate(NUMBER.split(name))
    return tuple(
        tuple(map(Decimal, part.split(".") if place in apart else [part])) if place % 2 else part
        for place, part in parts
    ), name


def in_sequences(names: Sequence[str], groups: Sequence[str], count: int | None = None) -> list[int]:
    """Places of frames, sequence after sequence, each in the order of its names.

    With ``count``, whole sequences spread evenly over all of them, the last one cut where enough are taken: a sequence
    is never begun in its middle.
    """
    by_group: dict[str, list[int]] = {}
    for place in sorted(range(len(names)), key=groups.__getitem__):
        by_group.setdefault(groups[place], []).append(place)
    for members in by_group.values():
        apart = counters([names[place] for place in members])
        keys = {place: in_time(names[place], apart) for place in members}
        members.sort(key=keys.__getitem__)
    sequences = list(by_group.values())
    if count is None or count >= len(names):
        return [place for sequence in sequences for place in sequence]
    number = max(1, min(len(sequences), -(-count * len(sequences) // len(names))))
    while True:
        chosen = [sequences[int((step + 0.5) * len(sequences) / number)] for step in range(number)]
        if sum(map(len, chosen)) >= count or number == len(sequences):
            return [place for sequence in chosen for place in sequence][:count]
        number += 1


def ordered(items: rows.Items, settings: Evaluation) -> tuple[tuple[Item, ...], dict[str, str]]:
    """The images sequence after sequence, and the sequence of each by its id.

    Raises:
        DataError: They come from ``module:callable``, whose order is not known, or have no sequence.
    """
    if isinstance(items, rows.Rows):
        raise DataError(
            "a model with memory needs images whose names are known",
            expected="a folder of images or an .npz",
            do="write the frames into a folder for each sequence",
        )
    names = [item.id for item in items]
    groups = group_names(settings, names) or ["all"] * len(names)
    places = in_sequences(names, groups, settings.limit)
    return tuple(items[place] for place in places), dict(zip(names, groups, strict=True))
