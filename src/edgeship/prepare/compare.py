"""How far a candidate graph's tensors are from the reference's on the same real frames: signal-to-noise in decibels."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeship.errors import QuantizeError, UserInputError
from edgeship.prepare import large
from edgeship.prepare.joined import Joined, find_joined
from edgeship.prepare.quantized_tensors import COMPUTING, find_tensors, float_tensors
from edgeship.prepare.running import Running, hands, in_order
from edgeship.results import LayerNoise

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

Name = TypeVar("Name", bound=str)
LOWEST_DB = 10.0
"""An output with less signal-to-noise than this is refused unless it is allowed by name: a third of it is noise."""
SAME_SHARE = 0.9
"""An output of whole numbers (classes, indices) is not noisy where this share of them is the same."""
STILL = 1e-3
"""An output that moves from frame to frame by less than this share of its size is called nearly the same on all."""
CEILING_DB = 200.0
"""Reported where two tensors are equal; float32 itself resolves about 150 dB."""
FRAMES = 8
"""Frames that a comparison looks at unless told otherwise."""


@dataclass(frozen=True)
class Comparison:
    """Reference against candidate.

    ``agreement``: the share of positions at which the largest value along axis 1, the classes, is the same one — top-1
    for a classifier. It counts every float output with two values or more on that axis; None when there is none.
    """

    layers: tuple[LayerNoise, ...]
    outputs: dict[str, float]
    agreement: float | None
    noisy: tuple[str, ...] = ()
    """Outputs below :data:`LOWEST_DB`."""
    still: tuple[str, ...] = ()
    """Outputs of the reference that are nearly the same on every frame."""
    notes: tuple[str, ...] = ()
    """Outputs whose shape the data decide, with how much of them was compared; noise in a part of a joined output."""
    parts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(output, tensor that it joins) → decibels of that part, where :func:`compare` made this."""

    @property
    def output_snr_db(self) -> float:
        """The worst output's."""
        return min(self.outputs.values())

    @property
    def part_snr_db(self) -> float:
        """The worst output's, of one that joins tensors that of its worst part: its boxes may hide its scores."""
        joined = {output for output, _ in self.parts}
        return min([*self.parts.values(), *(db for name, db in self.outputs.items() if name not in joined)])


class Snr:
    """Signal-to-noise over many arrays: 10 log10(sum(reference²) / sum((candidate - reference)²))."""

    def __init__(self) -> None:
        self._signal = 0.0
        self._noise = 0.0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Count a pair of arrays of one shape, at the places where the reference is finite."""
        wanted = np.asarray(reference, dtype=np.float64)
        found = np.asarray(candidate, dtype=np.float64)
        finite = np.isfinite(wanted)
        if not finite.all():
            wanted, found = wanted[finite], found[finite]
        self._signal += float(np.square(wanted).sum())
        self._noise += float(np.square(found - wanted).sum()) if np.isfinite(found).all() else math.inf

    @property
    def db(self) -> float:
        """Decibels, at most :data:`CEILING_DB`; minus that for noise without a signal, and for NaN or infinity."""
        if self._noise == 0.0:
            return CEILING_DB
        if self._signal == 0.0 or math.isinf(self._noise):
            return -CEILING_DB
        return min(CEILING_DB, 10.0 * math.log10(self._signal / self._noise))


class Movement:
    """Whether an output changes from frame to frame: its distance from the first frame, beside its size."""

    def __init__(self) -> None:
        self._first: NDArray[Any] | None = None
        self._moved = self._size = 0.0
        self._frames = 0

    def add(self, values: NDArray[Any]) -> None:
        """Count the frames of a batch, along the first axis."""
        if values.ndim < 2 or not len(values) or values.dtype.kind != "f":
            return
        if self._first is None:
            self._first = values[:1].astype(np.float64)
        if values.shape[1:] == self._first.shape[1:]:
            self._frames += len(values)
            self._moved += float(np.nansum(np.square(values - self._first)))
            self._size += float(np.nansum(np.square(values.astype(np.float64))))

    @property
    def still(self) -> bool:
        """Whether it moves by less than a thousandth of its size; an output of zeros alone does not move."""
        return self._frames > 1 and self._moved <= STILL**2 * self._size


def compare(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    frames: Iterable[FrameBatch],
    *,
    limit: int = FRAMES,
    layers: bool = True,
    optimize: bool = True,
) -> Comparison:
    """Run both graphs on real frames and compare outputs and, by name, the outputs of computing nodes.

    Args:
        reference: The FP32 graph, with inferred shapes.
        candidate: A graph with the same inputs and outputs.
        frames: Real frames; the first batches that hold ``limit`` of them are used.
        layers: Whether to compare inner tensors too.
        optimize: Whether onnxruntime may rewrite the candidate; False for a graph that is meant for TensorRT.

    Raises:
        QuantizeError: The candidate answers with NaN or infinity where the reference does not.
    """
    outputs = [value.name for value in reference.graph.output]
    nodes = _common_layers(reference, candidate) if layers else {}
    tensors = [name for name in nodes if name not in outputs]
    places = {name: nodes[name][1] for name in tensors}
    joined = find_joined(reference)
    asked = list(dict.fromkeys([*outputs, *tensors, *(name for item in joined for name in item.parts)]))
    packed = not large.too_large(reference)  # few runs are not worth a second copy of that many weights
    more = [name for name in asked if name not in outputs]
    ours = Running(reference, layout=True, also=more, packed=packed)
    theirs = Running(candidate, optimize=optimize, layout=True, also=list(places.values()), packed=packed)
    tally = _Tally(outputs)
    noise = {name: Snr() for name in tensors}
    of_parts: dict[tuple[str, str], Snr] = {}
    for feeds in _first(frames, limit):
        values = dict(zip(asked, ours.run(asked, dict(feeds)), strict=True))
        wanted = [values[name] for name in (*outputs, *tensors)]
        found = theirs.run([*outputs, *places.values()], _cast(theirs, feeds))
        tally.add(wanted[: len(outputs)], found[: len(outputs)])
        for item in joined:
            _add_parts(of_parts, item, values, *(side[outputs.index(item.output)] for side in (wanted, found)))
        for name, reference_value, value in zip(tensors, wanted[len(outputs) :], found[len(outputs) :], strict=True):
            noise[name].add(reference_value, value)
    noise |= {name: tally.noise[name] for name in outputs}
    compared = tally.comparison(
        tuple(
            LayerNoise(node=node.name, operator=node.op_type, snr_db=round(noise[name].db, 3))
            for name, (node, _) in nodes.items()
        )
    )
    parts = {key: round(item.db, 3) for key, item in of_parts.items()}
    return replace(compared, notes=(*compared.notes, *_lost_parts(of_parts, compared)), parts=parts)


def _add_parts(
    noise: dict[tuple[str, str], Snr],
    joined: Joined,
    values: Mapping[str, NDArray[Any]],
    wanted: NDArray[Any],
    found: NDArray[Any],
) -> None:
    """Count each part of an output that joins several by itself."""
    if wanted.shape != found.shape:
        return
    places = joined.places(values)
    for number, name in enumerate(joined.parts):
        here = places == number
        noise.setdefault((joined.output, name), Snr()).add(wanted[here], found[here])


def _lost_parts(noise: Mapping[tuple[str, str], Snr], compared: Comparison) -> tuple[str, ...]:
    """What is noise within an output that is not noise as a whole, because its other parts are larger."""
    return tuple(
        f"output {output!r} joins several tensors, and of them {name!r} is {item.db:.1f} dB above its noise: look at "
        "what is read from it"
        for (output, name), item in noise.items()
        if item.db < LOWEST_DB and output not in compared.noisy
    )


def compare_outputs(
    reference: onnx.ModelProto,
    candidates: Iterable[tuple[Name, onnx.ModelProto]],
    frames: Iterable[FrameBatch],
    limit: int,
    *,
    optimize: bool = True,
) -> dict[Name, Comparison]:
    """Compare the outputs of several candidates, of which one is held at a time, with the reference's in one pass.

    Raises as :func:`compare` does.
    """
    begun = sum(1 for _ in itertools.islice(_first(frames, limit), hands()))
    threads = 1 if 2 * begun >= hands() else 0  # where too few runs could go side by side, each takes every core
    made = opened(candidates, optimize=optimize, threads=threads, packed=not large.too_large(reference))
    return compare_open(reference, made, frames, limit, threads=threads)


def opened(
    candidates: Iterable[tuple[Name, onnx.ModelProto]], *, optimize: bool, threads: int = 0, packed: bool = True
) -> dict[Name, Running]:
    """The candidates open.

    ``optimize``: as in :func:`compare`; ``threads`` and ``packed``: as in :class:`Running`.
    """
    return {
        name: Running(made, optimize=optimize, layout=True, threads=threads, packed=packed) for name, made in candidates
    }


def compare_open(
    reference: onnx.ModelProto,
    candidates: Mapping[Name, Running],
    frames: Iterable[FrameBatch],
    limit: int,
    *,
    threads: int = 0,
) -> dict[Name, Comparison]:
    """:func:`compare_outputs` of candidates that are open; those of one thread are run side by side."""
    outputs = [value.name for value in reference.graph.output]
    ours = Running(reference, layout=True, threads=threads, packed=not large.too_large(reference))
    tallies = {name: _Tally(outputs) for name in candidates}

    def answer(asked: tuple[Running, Mapping[str, NDArray[Any]]]) -> list[NDArray[Any]]:
        return asked[0].run(outputs, asked[1])

    runs = (
        (session, feeds if session is ours else _cast(session, feeds))
        for feeds in _first(frames, limit)
        for session in (ours, *candidates.values())
    )
    answers = in_order(answer, runs, hands() if threads == 1 else 1)
    for wanted in answers:
        for tally in tallies.values():
            tally.add(wanted, next(answers))
    return {name: tally.comparison() for name, tally in tallies.items()}


class _Tally:
    """Signal-to-noise and agreement of outputs."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self.noise = {name: Snr() for name in outputs}
        self.same = self.total = 0
        self._movement = {name: Movement() for name in outputs}
        self._whole: dict[str, tuple[int, int]] = {}
        self._varying: dict[str, tuple[list[int], list[int]]] = {}

    def add(self, wanted: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> None:
        for (name, noise), reference, candidate in zip(self.noise.items(), wanted, found, strict=True):
            ours, theirs = reference, candidate
            if ours.shape != theirs.shape:
                self._varying.setdefault(name, (list(ours.shape), list(theirs.shape)))
                ours, theirs = common_part(name, ours, theirs)
            _refuse_broken(name, ours, theirs)
            noise.add(ours, theirs)
            self._movement[name].add(ours)
            if ours.dtype.kind != "f":
                hits, size = self._whole.get(name, (0, 0))
                self._whole[name] = (hits + int((ours == theirs).sum()), size + ours.size)
            hits, size = _agreement(ours, theirs)
            self.same += hits
            self.total += size

    def comparison(self, layers: tuple[LayerNoise, ...] = ()) -> Comparison:
        outputs = {name: round(noise.db, 3) for name, noise in self.noise.items()}
        notes = tuple(
            f"output {name!r} has as many entries as the data decide: {ours} by the reference, {theirs} here on the "
            "first frame that differs; what both have was compared, from the beginning"
            for name, (ours, theirs) in self._varying.items()
        )
        noisy = tuple(name for name in outputs if self._noisy(name, outputs[name]))
        still = tuple(name for name, seen in self._movement.items() if seen.still)
        return Comparison(layers, outputs, self.same / self.total if self.total else None, noisy, notes, still)

    def _noisy(self, name: str, db: float) -> bool:
        """Whether an output is to be refused; one whose entries may have moved against each other cannot be judged."""
        if name in self._varying or db >= LOWEST_DB:
            return False
        hits, size = self._whole.get(name, (0, 0))
        return not size or hits < SAME_SHARE * size


def common_part(name: str, wanted: NDArray[Any], found: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The entries that two arrays of data-dependent shape have in common, counted from the beginning of each axis."""
    if wanted.ndim != found.ndim:
        raise QuantizeError(
            f"output {name!r} has the shape {list(found.shape)} after conversion, {list(wanted.shape)} before",
            do="keep the nodes that compute its shape in high precision (--keep)",
        )
    part = tuple(slice(0, min(sizes)) for sizes in zip(wanted.shape, found.shape, strict=True))
    return wanted[part], found[part]


def require_signal(compared: Comparison, allowed: Sequence[str], what: str, advice: str | None = None) -> None:
    """Refuse a graph with an output below :data:`LOWEST_DB` that is not allowed by name.

    ``advice``: what was found to help.

    Raises:
        UserInputError: A name in ``allowed`` is not an output.
        QuantizeError: Names each such output and the layers that lose most.
    """
    unknown = [name for name in allowed if name not in compared.outputs]
    if unknown:
        raise UserInputError(
            f"--allow-noise {unknown[0]}: the model has no such output", expected=", ".join(compared.outputs)
        )
    refused = [name for name in compared.noisy if name not in allowed]
    if not refused:
        return
    values = ", ".join(f"{name} {compared.outputs[name]:.1f} dB" for name in refused)
    still = [name for name in refused if name in compared.still]
    if advice is None:
        flags = " ".join(f"--allow-noise {shlex.quote(name)}" for name in refused)
        advice = (
            "keep layers in high precision (--keep NODE, or [candidates] search = true), or allow outputs that are "
            f"not used: {flags} (quantization.allow_noise = {json.dumps(refused)})"
        )
    if still:
        advice = f"in FP32 too, {', '.join(still)} is nearly the same on every frame: load trained weights; or {advice}"
    guilty = ", ".join(f"{layer.operator} {layer.node} ({layer.snr_db:.1f} dB)" for layer in worst(compared.layers, 5))
    raise QuantizeError(
        f"{what} no longer answers as FP32 does: {values} signal-to-noise"
        + (f"; worst layers: {guilty}" if guilty else ""),
        expected=f"at least {LOWEST_DB:.0f} dB on real frames in every output",
        do=advice,
    )


def _common_layers(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, str]]:
    """Tensor → (node of the reference, the candidate's tensor to compare with), for computing nodes.

    A node whose result a fused ReLU or Clip consumes at once is judged after it. Where the candidate quantizes the
    tensor, its dequantized value is compared: what the next layer sees.
    """
    floats = float_tensors(reference)
    fused = find_tensors(reference).shared
    there = {name for node in candidate.graph.node for name in node.output}
    quantized = {node.input[0]: node.output[0] for node in candidate.graph.node if node.op_type == "QuantizeLinear"}
    dequantized = {node.input[0]: node.output[0] for node in candidate.graph.node if node.op_type == "DequantizeLinear"}
    found: dict[str, tuple[onnx.NodeProto, str]] = {}
    for node in reference.graph.node:
        name = node.output[0] if node.output else ""
        name = fused.get(name, name)
        if node.op_type in COMPUTING and name in floats and name in there and name not in found:
            found[name] = (node, dequantized.get(quantized.get(name, ""), name))
    return found


def _first(frames: Iterable[FrameBatch], limit: int) -> Iterable[Mapping[str, NDArray[Any]]]:
    taken = 0
    for ids, feeds in frames:
        if taken >= limit:
            return
        taken += max(len(ids), 1)
        yield feeds


def _cast(session: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Feeds in the input types of a session: a converted graph may take float16."""
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    wanted = {value.name: kinds.get(value.type) for value in session.get_inputs()}
    return {name: array.astype(wanted[name] or array.dtype, copy=False) for name, array in feeds.items()}


def _refuse_broken(name: str, wanted: NDArray[Any], found: NDArray[Any]) -> None:
    if wanted.dtype.kind == "f" and not np.isfinite(found[np.isfinite(wanted)]).all():
        raise QuantizeError(
            f"output {name!r} holds NaN or infinity after conversion, the reference does not",
            expected="finite outputs on real frames",
            do="keep the layers that overflow in high precision (--keep), or convert to another precision",
        )


def _agreement(wanted: NDArray[Any], found: NDArray[Any]) -> tuple[int, int]:
    """How many of the positions choose the same class, for float outputs [batch, classes, ...]."""
    if wanted.dtype.kind != "f" or wanted.ndim < 2 or wanted.shape[1] < 2:
        return 0, 0
    hits = wanted.argmax(axis=1) == found.argmax(axis=1)
    return int(hits.sum()), int(hits.size)


def worst(layers: Sequence[LayerNoise], count: int) -> tuple[LayerNoise, ...]:
    """The ``count`` layers with the lowest signal-to-noise, worst first."""
    return tuple(itertools.islice(sorted(layers, key=lambda layer: layer.snr_db), count))
