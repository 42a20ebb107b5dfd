"""Seeded inputs that a graph takes: sizes for its dynamic axes, and no noise where a value has a meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeship.data.feeds import Bounds, Shapes, noise, possible_shapes
from edgeship.errors import ModelError
from edgeship.prepare import graph
from edgeship.prepare.running import RunError, Running

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]

PARAMETERS: dict[str, dict[int, str]] = {
    "AffineGrid": {1: "size"}, "ArrayFeatureExtractor": {1: "indices"}, "BatchNormalization": {4: "variance"},
    "BlackmanWindow": {0: "size"}, "CenterCropPad": {1: "shape"}, "Clip": {1: "minimum", 2: "maximum"},
    "Col2Im": {1: "image shape", 2: "block shape"}, "Compress": {1: "condition"}, "ConstantOfShape": {0: "shape"},
    "CumProd": {1: "axis"}, "CumSum": {1: "axis"}, "DequantizeLinear": {1: "scale", 2: "zero point"},
    "DFT": {1: "length", 2: "axis"}, "Dropout": {1: "ratio", 2: "training mode"}, "Expand": {1: "shape"},
    "GatherND": {1: "indices"}, "GRU": {4: "sequence lengths"}, "HammingWindow": {0: "size"}, "HannWindow": {0: "size"},
    "If": {0: "condition"}, "Loop": {0: "trip count", 1: "condition"}, "LSTM": {4: "sequence lengths"},
    "MaxUnpool": {1: "indices", 2: "output shape"},
    "MelWeightMatrix": {0: "bins", 1: "length", 2: "rate", 3: "lowest", 4: "highest"},
    "NonMaxSuppression": {2: "count", 3: "overlap", 4: "score"}, "OneHot": {1: "depth"},
    "Pad": {1: "pads", 3: "axes"}, "QLinearConv": {1: "scale", 4: "scale", 6: "scale"},
    "QLinearMatMul": {1: "scale", 4: "scale", 6: "scale"}, "QuantizeLinear": {1: "scale", 2: "zero point"},
    "Range": {0: "start", 1: "limit", 2: "step"}, "Reshape": {1: "shape"},
    "Resize": {1: "region", 2: "scales", 3: "sizes"}, "ReverseSequence": {1: "lengths"}, "RNN": {4: "sequence lengths"},
    "ScatterND": {1: "indices"}, "SequenceAt": {1: "position"}, "SequenceErase": {1: "position"},
    "SequenceInsert": {2: "position"}, "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"},
    "Split": {1: "sizes"}, "SplitToSequence": {1: "sizes"}, "Squeeze": {1: "axes"},
    "STFT": {1: "step", 3: "length"}, "TensorScatter": {2: "position"}, "Tile": {1: "repeats"}, "TopK": {1: "count"},
    "Trilu": {1: "diagonal"}, "Unsqueeze": {1: "axes"}, "Upsample": {1: "scales"},
    "ReduceL1": {1: "axes"}, "ReduceL2": {1: "axes"}, "ReduceLogSum": {1: "axes"}, "ReduceLogSumExp": {1: "axes"},
    "ReduceMax": {1: "axes"}, "ReduceMean": {1: "axes"}, "ReduceMin": {1: "axes"}, "ReduceProd": {1: "axes"},
    "ReduceSum": {1: "axes"}, "ReduceSumSquare": {1: "axes"},
}  # fmt: skip
"""Inputs, by operator and place, whose value decides shapes, places or ratios: noise there means nothing."""
_CARRIES = frozenset((
    "Add", "Cast", "Ceil", "Concat", "Div", "Floor", "Gather", "Identity", "Max", "Min", "Mul", "Reshape", "Slice",
    "Squeeze", "Sub", "Unsqueeze",
))  # fmt: skip
"""Operators through which such a value is followed back to an input of the graph."""


@dataclass(frozen=True)
class Known:
    """What is known of a graph's inputs before it runs.

    ``shapes``: whole shapes by input, as :func:`edgeship.data.feeds.known_shapes` gives. ``bounds``: the user's own
    range of an input's values. ``feeds``: real inputs, which are then used as they are.
    """

    shapes: Shapes = field(default_factory=dict)
    bounds: Bounds = field(default_factory=dict)
    feeds: Mapping[str, Array] | None = None


NOTHING = Known()


def parameter_inputs(model: onnx.ModelProto) -> dict[str, str]:
    """Inputs of the graph that are parameters of an operator → what they are: ``"the shape of Reshape 'r1'"``."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    inputs = {info.name for info in graph.inputs_of(model)}
    found: dict[str, str] = {}
    for node in model.graph.node:
        for place, word in PARAMETERS.get(node.op_type, {}).items():
            if place < len(node.input):
                for name in _sources(node.input[place], makers, inputs):
                    found.setdefault(name, f"the {word} of {node.op_type} {node.name or node.output[0]!r}")
    return found


def _sources(name: str, makers: Mapping[str, onnx.NodeProto], inputs: set[str]) -> set[str]:
    """The graph inputs whose values a tensor carries."""
    found, seen, waiting = set(), set(), [name]
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in inputs:
            found.add(tensor)
        elif tensor in makers and makers[tensor].op_type in _CARRIES:
            waiting.extend(makers[tensor].input)
    return found


def require_values(model: onnx.ModelProto, known: Known) -> None:
    """Refuse to make up values of inputs that are parameters.

    Raises:
        ModelError: Names each such input and what it is.
    """
    unknown = {name: what for name, what in parameter_inputs(model).items() if name not in known.bounds}
    if unknown:
        listed = ", ".join(f"{name!r} is {what}" for name, what in unknown.items())
        raise ModelError(
            f"noise cannot stand for every input of the graph: {listed}",
            expected="values that mean something",
            do=f"give real inputs with --npz, or low and high in [model.inputs.{next(iter(unknown))}]; "
            "better, export the model with this value as a constant",
        )


def accepted_feeds(
    model: onnx.ModelProto, running: Running, batch: int, known: Known = NOTHING, seeds: Sequence[int] = (0,)
) -> list[dict[str, Array]]:
    """Seeded feeds at a batch, of the first sizes that the graph takes.

    Raises:
        ModelError: An input is a parameter, and its value is not known.
        RunError: The graph takes none of the sizes.
    """
    require_values(model, known)
    inputs, outputs = graph.inputs_of(model), [info.name for info in graph.outputs_of(model)]
    refused: RunError | None = None
    for shapes in possible_shapes(inputs, batch, known.shapes):
        try:
            running.run(outputs, noise(inputs, shapes, seeds[0], known.bounds))
        except RunError as error:
            refused = refused or error
        else:
            return [noise(inputs, shapes, seed, known.bounds) for seed in seeds]
    assert refused is not None
    raise refused
