"""The student: the program that was exported, with the rounding of its deployed graph inserted by name.

The exporter gives ONNX tensors the names of the program's nodes, and simplification keeps them. So the places of the
Q/DQ pairs are known in the program, for sums and concatenations as for convolutions. Batch normalization keeps its
statistics: folded into the convolution or not, per-channel rounding of the weight is then the same.
"""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from edgeship.errors import TrainingError
from edgeship.prepare import graph
from edgeship.qat.fake import ActivationQuantizer, WeightQuantizer
from edgeship.qat.rounding import Rounded, Rounding

if TYPE_CHECKING:
    import onnx

aten: Any = torch.ops.aten
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.convolution.default)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
LINEAR = aten.linear.default
PRODUCTS = (aten.matmul.default, aten.mm.default, aten.bmm.default, aten.addmm.default)
NORMALIZED = aten._native_batch_norm_legit_no_training.default
VIEWS = (aten.view.default, aten._unsafe_view.default)
QUANTIZERS = "edgeship_rounding"
"""The submodule that holds the fake quantizers: no name of the user's."""


@dataclass
class Student:
    """A trainable module that rounds as its deployed graph does."""

    module: fx.GraphModule
    activations: dict[str, ActivationQuantizer] = field(default_factory=dict)
    """By the tensor whose range they learn."""
    rounded: int = 0
    weighted: int = 0
    missed: list[str] = field(default_factory=list)
    """Tensors and weights that the deployed graph rounds and that have no place of their own in the program."""

    def user_state(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers of the user's module by their names there, on the CPU."""
        own = self.module.state_dict()
        return {name: value.detach().cpu() for name, value in own.items() if not name.startswith(QUANTIZERS)}


def plain_module(program: Any) -> fx.GraphModule:
    """The program as a module that is called as the user's is and answers as it does, in eval mode."""
    module: fx.GraphModule = program.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
        elif node.op == "call_function" and node.target is NORMALIZED:
            _common_normalization(module, node)
        elif node.op == "call_function" and node.target is aten.silu.default:
            _open_silu(module, node)
        elif node.op == "call_function" and node.target in VIEWS:
            node.target = aten.reshape.default  # the same values, however they lie in memory
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def frozen(module: fx.GraphModule) -> fx.GraphModule:
    """The module with parameters and buffers of its own that no training changes."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            part.register_parameter(name, nn.Parameter(value.detach().clone(), requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, buffer.detach().clone())
    return module


def in_layout(module: nn.Module, layout: torch.memory_format) -> None:
    """Put every four-dimensional parameter and buffer in a memory layout: convolutions pass it on to what they give."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)


def _common_normalization(module: fx.GraphModule, node: fx.Node) -> None:
    """Batch normalization by the call with fast kernels, under the name of its first result."""
    values, gamma, beta, mean, variance, momentum, eps = node.args
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] == 0:
            with module.graph.inserting_before(user):
                common = module.graph.call_function(
                    nn.functional.batch_norm, (values, mean, variance, gamma, beta, False, momentum, eps)
                )
            user.replace_all_uses_with(common)
            name = user.name
            module.graph.erase_node(user)
            common.name = name
            common.meta["was"] = node.name


def _open_silu(module: fx.GraphModule, node: fx.Node) -> None:
    """x · sigmoid(x): the graph rounds both."""
    with module.graph.inserting_before(node):
        gate = module.graph.call_function(aten.sigmoid.default, (node.args[0],))
        product = module.graph.call_function(aten.mul.Tensor, (node.args[0], gate))
    gate.meta["part"] = (node.name, "Sigmoid")
    node.replace_all_uses_with(product)
    name = node.name
    module.graph.erase_node(node)
    product.name = name


def make_student(program: Any, reference: onnx.ModelProto, rounding: Rounding) -> Student:
    """The program with fake quantizers.

    Args:
        program: The decomposed ExportedProgram that the graph was exported from.
        reference: The simplified graph, with inferred names and types.
        rounding: What its deployed graph rounds.

    Raises:
        TrainingError: No place of the deployed graph's rounding is in the program.
    """
    return _Inserter(plain_module(program), reference, rounding).insert()


class _Inserter:
    def __init__(self, module: fx.GraphModule, reference: onnx.ModelProto, rounding: Rounding) -> None:
        self._student = Student(module)
        self._graph = module.graph
        self._rounding = rounding
        self._reference = reference
        self._quantizers = nn.ModuleDict()
        self._nodes = {node.name: node for node in module.graph.nodes}
        self._of_fx: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for item in reference.graph.node:
            match = re.match(r"%(\w+) :", graph.metadata(item).get(graph.FX_NODE, ""))
            if match:
                self._of_fx[match.group(1)].append(item)
        self._places = self._tensors()

    def _tensors(self) -> dict[str, fx.Node]:
        """ONNX tensor → the node of the program that makes it."""
        places = dict(self._nodes)
        inputs = [node for node in self._graph.nodes if node.op == "placeholder"]
        constants = {tensor.name for tensor in self._reference.graph.initializer}
        named = [value.name for value in self._reference.graph.input if value.name not in constants]
        places.update(zip(named, inputs, strict=False))
        last = next(node for node in self._graph.nodes if node.op == "output")
        outputs: list[fx.Node] = []
        fx.node.map_arg(last.args[0], outputs.append)
        places.update(zip((value.name for value in self._reference.graph.output), outputs, strict=False))
        for node in self._graph.nodes:
            if "part" in node.meta:
                whole, kind = node.meta["part"]
                made = [item for item in self._of_fx[whole] if item.op_type == kind]
                places.update({item.output[0]: node for item in made})
        return places

    def insert(self) -> Student:
        """The student."""
        student, module = self._student, self._student.module
        module.add_module(QUANTIZERS, self._quantizers)
        self._round_weights()
        for name, rounded in self._rounding.activations.items():
            node = self._places.get(name)
            if node is None or not self._round(node, rounded):
                student.missed.append(name)
            else:
                student.rounded += 1
        if not student.rounded or not student.weighted:
            raise TrainingError(
                f"none of the {len(self._rounding.activations)} rounded tensors and {len(self._rounding.weights)} "
                "rounded weights of the INT8 graph has a place in the PyTorch program",
                expected="a model whose convolutions and matrix products are calls of torch",
                do="report the model's operators; calibration alone still works",
            )
        module.graph.lint()
        module.recompile()
        return student

    # --- weights -------------------------------------------------------------------------------------------------

    def _round_weights(self) -> None:
        wanted = dict(self._rounding.weights)
        for node in list(self._graph.nodes):
            slot = _weight_slot(node)
            if slot is None:
                continue
            names = {item.name for item in self._made_from(node)}
            found = sorted(names & wanted.keys())
            if not found:
                continue
            per_channel = wanted.pop(found[0])
            axis = _weight_axis(node) if per_channel else None
            self._wrap_weight(node, slot, WeightQuantizer(axis))
            self._student.weighted += 1
        self._student.missed.extend(sorted(wanted))

    def _made_from(self, node: fx.Node) -> list[onnx.NodeProto]:
        """The ONNX nodes that were made from a node of the program, with a normalization folded in."""
        made = [*self._of_fx.get(node.name, ()), *self._of_fx.get(node.meta.get("was", ""), ())]
        for user in node.users:
            if user.target is nn.functional.batch_norm:
                owners = {item.name for item in self._reference.graph.node if user.name in item.output}
                made += [item for item in self._reference.graph.node if item.name in owners]
                made += [item for item in self._output_nodes() if self._places.get(item.output[0]) is user]
        return made

    def _output_nodes(self) -> list[onnx.NodeProto]:
        outputs = {value.name for value in self._reference.graph.output}
        return [item for item in self._reference.graph.node if outputs.intersection(item.output)]

    def _wrap_weight(self, node: fx.Node, slot: int, quantizer: WeightQuantizer) -> None:
        behind = next((user for user in node.users if user.target is nn.functional.batch_norm), None)
        arguments: tuple[Any, ...] = (node.args[slot],)
        if quantizer.axis is None and behind is not None:
            arguments = (node.args[slot], behind.args[3], behind.args[2], behind.args[7])
        name = f"weight_{len(self._quantizers)}"
        self._quantizers[name] = quantizer
        before = [item for item in arguments if isinstance(item, fx.Node)]
        for item in before[1:]:  # what a normalization reads may stand behind the convolution
            node.prepend(item)
        with self._graph.inserting_before(node):
            rounded = self._graph.call_module(f"{QUANTIZERS}.{name}", arguments)
        node.update_arg(slot, rounded)

    # --- activations ---------------------------------------------------------------------------------------------

    def _round(self, node: fx.Node, rounded: Rounded) -> bool:
        """Insert a quantizer behind ``node``, for all of its readers or for those that read rounded values."""
        users = [user for user in node.users if user.target is not aten.sym_size.int]
        if rounded.readers is not None:
            users = [
                user
                for user in users
                if user.op != "output" and any(item.name in rounded.readers for item in self._readers(user))
            ]
        if not users:
            return False
        key = rounded.grid.root
        if key not in self._student.activations:
            self._student.activations[key] = ActivationQuantizer(rounded.grid)
            self._quantizers[f"activation_{len(self._quantizers)}"] = self._student.activations[key]
        label = next(part for part, item in self._quantizers.items() if item is self._student.activations[key])
        with self._graph.inserting_after(node):
            call = self._graph.call_module(f"{QUANTIZERS}.{label}", (node,))
        for user in users:
            user.replace_input_with(node, call)
        return True

    def _readers(self, user: fx.Node) -> list[onnx.NodeProto]:
        if "part" in user.meta:
            whole, kind = user.meta["part"]
            return [item for item in self._of_fx[whole] if item.op_type == kind]
        return self._made_from(user)


def _weight_slot(node: fx.Node) -> int | None:
    """Which argument of a product is its weight; None: it is no product, or of two activations."""
    if node.op != "call_function":
        return None
    if node.target in CONVOLUTIONS or node.target in TRANSPOSED or node.target is LINEAR:
        return 1
    if node.target in PRODUCTS:
        slot = 2 if node.target is aten.addmm.default else 1
        return slot if isinstance(node.args[slot], fx.Node) and _is_constant(node.args[slot]) else None
    return None


def _is_constant(node: Any) -> bool:
    """Whether a value depends on parameters alone."""
    if not isinstance(node, fx.Node):
        return True
    if node.op == "placeholder":
        return False
    return node.op == "get_attr" or all(_is_constant(item) for item in node.all_input_nodes)


def _weight_axis(node: fx.Node) -> int:
    """The axis of a weight's output channels."""
    if node.target in TRANSPOSED or (node.target is aten.convolution.default and node.args[6]):
        return 1
    return 1 if node.target in PRODUCTS else 0
