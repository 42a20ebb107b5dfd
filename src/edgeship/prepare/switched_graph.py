"""A graph whose groups of nodes can each be quantized or not at run time, by an ``If`` around each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeship.prepare.calibration_cache import UNLIMITED
from edgeship.prepare.node_groups import Group
from edgeship.prepare.quantized_tensors import WEIGHTED, Style, find_tensors, float_tensors, limits

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.calibration_cache import CalibrationCache

FLAGS = "edgeship_quantized"
SWITCH = "switch_"
"""How the ``If`` of a group is named; its position follows."""
FLOAT, HALF = 1, 10
"""TensorProto.DataType of float32 and float16."""


class SwitchedGraph:
    """Builds the graph with one ``If`` for each group."""

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: CalibrationCache | None,
        style: Style | Literal["fp16"],
        per_channel: bool,
    ) -> None:
        self._model = model
        self._calibration = calibration
        self._style = style
        self._per_channel = per_channel
        self._floats = float_tensors(model)
        self._types = {
            value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)
        }
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._shared = find_tensors(model).shared
        self._limits = limits(model)
        self._added: dict[str, onnx.TensorProto] = {}

    def build(self, groups: Sequence[Group]) -> onnx.ModelProto:
        """A copy of the model with a boolean input :data:`FLAGS`, one for each group."""
        import onnx
        from onnx import helper, numpy_helper

        of_node = {node.name: (position, group) for position, group in enumerate(groups) for node in group.nodes}
        used: dict[str, set[str]] = defaultdict(set)
        for node in self._model.graph.node:
            for name in node.input:
                used[name].add(node.name)
        outputs = {value.name for value in self._model.graph.output}
        nodes: list[onnx.NodeProto] = []
        for node in self._model.graph.node:
            if node.name not in of_node:
                nodes.append(node)
                continue
            position, group = of_node[node.name]
            if node is not group.nodes[-1]:
                continue
            members = {item.name for item in group.nodes}
            leaving = [
                name
                for item in group.nodes
                for name in item.output
                if name and (name in outputs or used[name] - members)
            ]
            index = numpy_helper.from_array(np.array(position, dtype=np.int64), f"{FLAGS}_{position}")
            self._added[index.name] = index
            nodes.append(helper.make_node("Gather", [FLAGS, index.name], [f"{FLAGS}_on_{position}"]))
            branches = {
                "then_branch": self._branch(group, leaving, quantized=True),
                "else_branch": self._branch(group, leaving, quantized=False),
            }
            nodes.append(helper.make_node("If", [f"{FLAGS}_on_{position}"], leaving, f"{SWITCH}{position}", **branches))
        switched = onnx.ModelProto()
        switched.CopyFrom(self._model)
        del switched.graph.node[:]
        switched.graph.node.extend(nodes)
        switched.graph.initializer.extend(self._added.values())
        switched.graph.input.append(helper.make_tensor_value_info(FLAGS, onnx.TensorProto.BOOL, [len(groups)]))
        return switched

    def _branch(self, group: Group, leaving: Sequence[str], *, quantized: bool) -> onnx.GraphProto:
        import onnx
        from onnx import helper

        suffix = "__quantized" if quantized else "__plain"
        inner = {name for node in group.nodes for name in node.output}
        nodes: list[onnx.NodeProto] = []
        renamed: dict[str, str] = {}
        rounded: dict[str, str] = {}
        for node in group.nodes:
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            twin.name = node.name + suffix
            for slot, name in enumerate(node.input):
                source = renamed.get(name, name)
                if quantized:
                    if source not in rounded:
                        rounded[source] = self._rounded_input(node, slot, name, source, nodes, inner)
                    source = rounded[source]
                twin.input[slot] = source
            for slot, name in enumerate(node.output):
                renamed[name] = name + suffix
                twin.output[slot] = name + suffix
            nodes.append(twin)
        if quantized and self._style != "tensorrt":
            for name in leaving:  # what is not a float, such as the places that TopK finds, stays as it is
                renamed[name] = (
                    self._rounded(name, renamed[name], nodes) if self._type(name) == FLOAT else renamed[name]
                )
        results = []
        for name in leaving:
            final = f"{name}{suffix}_out"
            nodes.append(helper.make_node("Identity", [renamed[name]], [final]))
            results.append(helper.make_tensor_value_info(final, self._type(name), None))
        return helper.make_graph(nodes, f"{group.nodes[0].name}{suffix}", [], results)

    def _type(self, name: str) -> int:
        """TensorProto.DataType of a tensor; float32 where shape inference could not tell."""
        return self._types.get(name) or FLOAT

    def _rounded_input(
        self, node: onnx.NodeProto, slot: int, name: str, source: str, nodes: list[onnx.NodeProto], inner: set[str]
    ) -> str:
        """The tensor that a quantized node reads in place of ``source``."""
        if self._style == "fp16":
            floats = name in self._floats or (name in self._constants and self._constants[name].data_type == FLOAT)
            return self._half(source, nodes) if floats and name not in inner else source
        if name in self._constants:
            weight = node.op_type in WEIGHTED and slot == 1
            both = self._style == "onnxruntime" and node.op_type in ("Add", "Mul", "MatMul", "Gemm", "Concat")
            return self._weight(node, name) if weight or (both and slot < 2) else source
        if name not in self._floats:
            return source
        if self._style == "tensorrt" and (node.op_type not in WEIGHTED or name in inner):
            return source
        return self._rounded(name, source, nodes)

    def _rounded(self, name: str, source: str, nodes: list[onnx.NodeProto]) -> str:
        """Append Q/DQ of an activation, or its casts; a tensor that calibration does not know is left alone."""
        from onnx import helper

        if self._style == "fp16":
            return self._half(source, nodes)
        grid = self._grid(name)
        if grid is None:
            return source
        scale, zero = grid
        tail = f"{source}__{len(nodes)}"
        names = (self._constant(f"{tail}_scale", scale), self._constant(f"{tail}_zero", zero))
        nodes.append(helper.make_node("QuantizeLinear", [source, *names], [f"{tail}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{tail}_q", *names], [f"{tail}_dq"]))
        return f"{tail}_dq"

    def _half(self, source: str, nodes: list[onnx.NodeProto]) -> str:
        """Append casts to FP16 and back: what FP16 rounds, flushes to zero or makes infinite."""
        from onnx import helper

        tail = f"{source}__{len(nodes)}"
        nodes.append(helper.make_node("Cast", [source], [f"{tail}_h"], to=HALF))
        nodes.append(helper.make_node("Cast", [f"{tail}_h"], [f"{tail}_f"], to=FLOAT))
        return f"{tail}_f"

    def _grid(self, name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Scale and zero point of an activation in the target's style; None: not calibrated."""
        root = self._shared.get(name, name)
        if self._calibration is None:
            return None
        if self._style == "tensorrt":
            scale = self._calibration.scales.get(root)
            return None if scale is None else (np.array(scale, np.float32), np.array(0, np.int8))
        bounds = self._calibration.bounds(root, self._limits.get(root, UNLIMITED))
        if bounds is None:
            return None
        low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
        step = (high - low) / 255 or 1.0
        return np.array(step, np.float32), np.array(round(-low / step), np.uint8)

    def _weight(self, node: onnx.NodeProto, name: str) -> str:
        """A constant rounded to symmetric int8, per channel where the node's kind and the options say so."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(self._constants[name])
        if values.dtype not in (np.float32, np.float16):
            return name
        axis = _channel_axis(node, values.ndim) if self._per_channel else None
        key = f"{name}__int8_{axis}"
        if key not in self._added:
            over = tuple(item for item in range(values.ndim) if item != axis)
            peak = np.abs(values.astype(np.float64)).max(axis=over, keepdims=True)
            scale = np.where(peak > 0, peak / 127, 1.0)
            rounded = np.clip(np.rint(values / scale), -127, 127) * scale
            self._constant(key, rounded.astype(values.dtype))
        return key

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._added[name] = numpy_helper.from_array(value, name)
        return name


def _channel_axis(node: onnx.NodeProto, dimensions: int) -> int | None:
    """The axis of a weight's output channels; None: one scale for all of it."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
        return 0 if transposed else 1
    return dimensions - 1 if node.op_type == "MatMul" and dimensions >= 2 else None
