"""Small seeded graphs, one for each operator, shape and role that quantization meets, and what must hold for each.

``python tests/unit/prepare/generated_graphs.py [STEP]`` tries every STEP-th through calibrate and quantize for both
engines and FP16, and prints what was refused and what was wrong.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeship.errors import EdgeshipError
from edgeship.prepare import calibration_cache
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.quantize import QuantizeOptions, quantize

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SHAPES = ((8, 8), (16, 7), (17, 5), (32, 8), (3, 6), (24, 1))
"""(channels, height and width) around the operator."""
ROLES = ("middle", "last", "tapped", "residual", "first", "named batch of one")


@dataclass
class Draft:
    """A graph in the making."""

    rng: np.random.Generator
    channels: int
    size: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """A random constant; by default of the scale that keeps activations at about 1."""
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        values = self.rng.standard_normal(shape) * (scale if scale is not None else fan**-0.5)
        return self.const(values.astype(np.float32))

    def const(self, values: Any, kind: Any = None) -> str:
        """A constant."""
        self.count += 1
        array = np.array(values, kind) if kind is not None else np.array(values)
        self.weights.append(numpy_helper.from_array(array, f"k{self.count}"))
        return f"k{self.count}"

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node; the name of its first output."""
        self.count += 1
        names = [f"t{self.count}"] + [f"t{self.count}_{extra}" for extra in range(1, outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"n{self.count}_{operator}", **attributes))
        return names[0]

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, **attributes: Any) -> str:
        """A convolution with bias that keeps height and width."""
        groups = attributes.get("group", 1)
        names = (self.weight(outputs, inputs // groups, kernel, kernel), self.weight(outputs, scale=0.2))
        pads = {} if "auto_pad" in attributes else {"pads": [kernel // 2] * 4}
        return self.add("Conv", x, *names, **{**pads, **attributes})


Make = Callable[[Draft, str], str]
"""Adds nodes behind a tensor [batch, channels, size, size]; the name of the result."""


def _rows(g: Draft, x: str) -> str:
    """[batch, channels]: means over height and width."""
    return g.add("Flatten", g.add("GlobalAveragePool", x))


def _tokens(g: Draft, x: str) -> str:
    """[batch, places, channels]."""
    flat = g.add("Reshape", x, g.const([0, g.channels, -1], np.int64))
    return g.add("Transpose", flat, perm=[0, 2, 1])


def _gemm(bias: tuple[int, ...] | None, **attributes: Any) -> Make:
    def make(g: Draft, x: str) -> str:
        shape = (24, g.channels) if attributes.get("transB") else (g.channels, 24)
        operands = [_rows(g, x), g.weight(*shape, scale=0.3)]
        if bias is not None:
            operands.append(g.weight(*bias, scale=1.0))
        return g.add("Gemm", *operands, **attributes)

    return make


def _attention(mask: float | None, *, computed: bool = False) -> Make:
    def make(g: Draft, x: str) -> str:
        tokens, places = _tokens(g, x), g.size**2
        q, k, v = (g.add("MatMul", tokens, g.weight(g.channels, g.channels)) for _ in range(3))
        scores = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1]))
        scores = g.add("Mul", scores, g.const(np.float32(g.channels**-0.5)))
        if mask is not None:
            upper = np.triu(np.ones((places, places), bool), 1)
            if computed:
                scores = g.add("Where", g.const(upper), g.const(np.float32(mask)), scores)
            else:
                scores = g.add("Add", scores, g.const(np.where(upper, mask, 0).astype(np.float32)))
        return g.add("MatMul", g.add("Softmax", scores, axis=-1), v)

    return make


def _grid(g: Draft, x: str) -> str:
    flow = g.add("Mul", g.add("Tanh", g.conv(x, g.channels, 2)), g.const(np.float32(0.1)))
    ticks = np.linspace(-1, 1, g.size, dtype=np.float32)
    base = np.stack(np.meshgrid(ticks, ticks), axis=-1)[None]
    grid = g.add("Add", g.add("Transpose", flow, perm=[0, 2, 3, 1]), g.const(base.astype(np.float32)))
    return g.add("GridSample", x, grid, align_corners=1)


def _recurrent(operator: str, gates: int, direction: str) -> Make:
    def make(g: Draft, x: str) -> str:
        ways, hidden = 2 if direction == "bidirectional" else 1, 12
        steps = g.add("Transpose", _tokens(g, x), perm=[1, 0, 2])
        weights = (
            g.weight(ways, gates * hidden, g.channels, scale=0.2),
            g.weight(ways, gates * hidden, hidden, scale=0.2),
        )
        y = g.add(operator, steps, *weights, hidden_size=hidden, direction=direction)
        merged = g.add("Reshape", g.add("Transpose", y, perm=[2, 0, 1, 3]), g.const([0, 0, ways * hidden], np.int64))
        return g.add("MatMul", merged, g.weight(ways * hidden, 16))

    return make


def _loop(g: Draft, x: str) -> str:
    shape = ["batch", g.channels, g.size, g.size]
    weight = numpy_helper.from_array(
        (g.rng.standard_normal((g.channels, g.channels, 1, 1)) * 0.2).astype(np.float32), "inner"
    )
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"], name="keep_going"),
            helper.make_node("Conv", ["state", "inner"], ["next"], name="inner_conv"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, shape),
        ],
        [weight],
    )
    return g.add("Loop", g.const(2, np.int64), "", x, body=body)


def _suppression(g: Draft, x: str) -> str:
    flat = g.add("Reshape", g.conv(x, g.channels, 5), g.const([0, 5, -1], np.int64))
    boxes = g.add("Slice", flat, g.const([0]), g.const([4]), g.const([1]))
    scores = g.add("Sigmoid", g.add("Slice", flat, g.const([4]), g.const([5]), g.const([1])))
    limits = (g.const([5]), g.const(np.float32([0.5])), g.const(np.float32([0.2])))
    return g.add("NonMaxSuppression", g.add("Transpose", boxes, perm=[0, 2, 1]), scores, *limits)


def _simple(operator: str, *constants: Any, **attributes: Any) -> Make:
    return lambda g, x: g.add(operator, x, *(g.const(value) for value in constants), **attributes)


F32 = np.float32
OPERATORS: dict[str, Make] = {
    "conv": lambda g, x: g.conv(x, g.channels, 16),
    "conv without bias": lambda g, x: g.add("Conv", x, g.weight(16, g.channels, 1, 1)),
    "conv dilated": lambda g, x: g.conv(x, g.channels, 16, dilations=[2, 2], pads=[2] * 4),
    "conv strided": lambda g, x: g.conv(x, g.channels, 16, strides=[2, 2]),
    "conv same": lambda g, x: g.conv(x, g.channels, 16, auto_pad="SAME_UPPER"),
    "conv depthwise": lambda g, x: g.conv(x, g.channels, g.channels, group=g.channels),
    "conv with computed weight": lambda g, x: g.add("Conv", x, g.add("Tanh", g.weight(8, g.channels, 1, 1))),
    "conv relu": lambda g, x: g.add("Relu", g.conv(x, g.channels, 16)),
    "conv relu6": lambda g, x: g.add("Clip", g.conv(x, g.channels, 16), g.const(F32(0)), g.const(F32(6))),
    "conv shared bias": lambda g, x: _shared_bias(g, x),
    "conv read twice": lambda g, x: _read_twice(g, x),
    "transposed": lambda g, x: g.add("ConvTranspose", x, g.weight(g.channels, 8, 2, 2), g.weight(8), strides=[2, 2]),
    "transposed in groups": lambda g, x: g.add(
        "ConvTranspose", x, g.weight(g.channels, 4, 2, 2), g.weight(4 * g.channels), strides=[2, 2], group=g.channels
    ),
    "gemm": _gemm((24,)),
    "gemm without bias": _gemm(None),
    "gemm row bias": _gemm((1, 24)),
    "gemm scalar bias": _gemm(()),
    "gemm one bias": _gemm((1,)),
    "gemm beta": _gemm((24,), beta=0.25),
    "gemm alpha": _gemm((24,), alpha=0.5),
    "gemm no beta": _gemm((24,), beta=0.0),
    "gemm transposed": _gemm((24,), transB=1, alpha=1.5, beta=2.0),
    "matmul": lambda g, x: g.add("MatMul", _tokens(g, x), g.weight(g.channels, 20)),
    "matmul with bias": lambda g, x: g.add(
        "Add", g.add("MatMul", _tokens(g, x), g.weight(g.channels, 20)), g.weight(20)
    ),
    "matmul of a vector": lambda g, x: g.add("MatMul", _rows(g, x), g.weight(g.channels)),
    "matmul constant left": lambda g, x: g.add("MatMul", g.weight(6, g.size), x),
    "matmul of itself": lambda g, x: g.add("MatMul", _tokens(g, x), g.add("Transpose", _tokens(g, x), perm=[0, 2, 1])),
    "einsum": lambda g, x: g.add("Einsum", x, g.weight(g.channels, 8), equation="bchw,cd->bdhw"),
    "attention": _attention(None),
    "attention mask -inf": _attention(-np.inf),
    "attention mask float-min": _attention(float(np.finfo(np.float32).min)),
    "attention mask -1e4": _attention(-1e4),
    "attention mask -100": _attention(-100.0),
    "attention where -inf": _attention(-np.inf, computed=True),
    "attention where -1e9": _attention(-1e9, computed=True),
    "grid sample": _grid,
    "lstm": _recurrent("LSTM", 4, "forward"),
    "lstm both ways": _recurrent("LSTM", 4, "bidirectional"),
    "gru both ways": _recurrent("GRU", 3, "bidirectional"),
    "loop": _loop,
    "add constant": lambda g, x: g.add("Add", x, g.weight(g.channels, 1, 1)),
    "mul scalar": _simple("Mul", F32(0.3)),
    "sub": _simple("Sub", F32(0.5)),
    "div": _simple("Div", F32(3)),
    "square": _simple("Pow", F32(2)),
    "silu": lambda g, x: g.add("Mul", x, g.add("Sigmoid", x)),
    "gate": lambda g, x: g.add("Mul", x, g.add("Sigmoid", g.add("GlobalAveragePool", x))),
    "gelu": lambda g, x: g.add(
        "Mul", x, g.add("Add", g.add("Erf", g.add("Div", x, g.const(F32(1.4)))), g.const(F32(1)))
    ),
    "softmax": lambda g, x: g.add("Softmax", g.add("Flatten", x), axis=-1),
    "layer norm": lambda g, x: g.add(
        "LayerNormalization", _tokens(g, x), g.weight(g.channels, scale=1.0), g.weight(g.channels), axis=-1
    ),
    "batch norm": lambda g, x: g.add(
        "BatchNormalization", x, *(g.weight(g.channels) for _ in range(3)), g.const(np.ones(g.channels, F32))
    ),
    "instance norm": lambda g, x: g.add(
        "InstanceNormalization", x, g.weight(g.channels, scale=1.0), g.weight(g.channels)
    ),
    "relu": _simple("Relu"),
    "clip to one": _simple("Clip", F32(-1), F32(1)),
    "clip below": _simple("Clip", F32(-0.5)),
    "leaky relu": _simple("LeakyRelu", alpha=0.1),
    "prelu": lambda g, x: g.add("PRelu", x, g.weight(g.channels, 1, 1)),
    "hard swish": _simple("HardSwish"),
    "hard sigmoid": _simple("HardSigmoid"),
    "sigmoid": _simple("Sigmoid"),
    "tanh": _simple("Tanh"),
    "elu": _simple("Elu"),
    "max pool": _simple("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average pool": _simple("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "global average pool": _simple("GlobalAveragePool"),
    "reduce mean": _simple("ReduceMean", [2, 3]),
    "concat": lambda g, x: g.add("Concat", x, g.conv(x, g.channels, 8), axis=1),
    "concat constant": lambda g, x: g.add("Concat", x, g.const(np.full((1, 2, g.size, g.size), 3, F32)), axis=1),
    "split": lambda g, x: g.add("Split", g.conv(x, g.channels, 16), outputs=2, axis=1, num_outputs=2),
    "slice": _simple("Slice", [0], [2], [1]),
    "pad": _simple("Pad", [0, 0, 1, 1, 0, 0, 1, 1]),
    "pad with one": _simple("Pad", [0, 0, 1, 1, 0, 0, 1, 1], F32(1)),
    "resize": lambda g, x: g.add("Resize", x, "", g.const(F32([1, 1, 2, 2])), mode="nearest"),
    "resize linear": lambda g, x: g.add("Resize", x, "", g.const(F32([1, 1, 2, 2])), mode="linear"),
    "transpose": _simple("Transpose", perm=[0, 2, 3, 1]),
    "gather": lambda g, x: g.add("Gather", x, g.const([0, 1]), axis=1),
    "space to depth": lambda g, x: g.add(
        "SpaceToDepth", g.add("Resize", x, "", g.const(F32([1, 1, 2, 2]))), blocksize=2
    ),
    "cumsum": _simple("CumSum", np.int64(1)),
    "topk": lambda g, x: g.add("TopK", g.add("Flatten", x), g.const([2]), outputs=2),
    "argmax": _simple("ArgMax", axis=1, keepdims=0),
    "non zero": lambda g, x: g.add("NonZero", g.add("Greater", x, g.const(F32(0)))),
    "suppression": _suppression,
    "double": lambda g, x: g.add("Cast", g.add("Mul", g.add("Cast", x, to=11), g.const(2.0)), to=11),
    "double inside": lambda g, x: g.add("Cast", g.add("Sqrt", g.add("Abs", g.add("Cast", x, to=11))), to=1),
    "int8 cast": lambda g, x: g.add("Cast", g.add("Clip", x, g.const(F32(0))), to=INT64),
    "microsoft gelu": _simple("Gelu", domain="com.microsoft"),
    "weight in a Constant node": lambda g, x: g.add(
        "Conv", x, g.add("Constant", value=numpy_helper.from_array(np.full((8, g.channels, 1, 1), 0.1, F32)))
    ),
    "tiny values": lambda g, x: g.conv(g.add("Mul", x, g.const(F32(1e-20))), g.channels, 8),
    "zeros": lambda g, x: g.conv(g.add("Mul", x, g.const(F32(0))), g.channels, 8),
    "dead channels": lambda g, x: g.add("Conv", x, g.const(np.zeros((8, g.channels, 1, 1), F32)), g.weight(8)),
}


def _shared_bias(g: Draft, x: str) -> str:
    bias = g.weight(8, scale=0.5)
    first = g.add("Conv", x, g.weight(8, g.channels, 1, 1, scale=2.0), bias)
    return g.add("Conv", first, g.weight(8, 8, 1, 1, scale=0.05), bias)


def _read_twice(g: Draft, x: str) -> str:
    first = g.conv(x, g.channels, 16)
    return g.add("Add", g.add("Relu", first), first)


@dataclass(frozen=True)
class Case:
    """A generated graph."""

    operator: str
    channels: int
    size: int
    role: str

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.operator}, {self.channels} channels of {self.size}, {self.role}"


def cases() -> list[Case]:
    """Every operator with four pairs of shape and role, all of which occur."""
    found = []
    for row, operator in enumerate(OPERATORS):
        for step in range(4):
            shape, role = SHAPES[(row + step) % len(SHAPES)], ROLES[(row * 5 + step * 2 + step // 2) % len(ROLES)]
            found.append(Case(operator, *shape, role))
    return found


def make(case: Case) -> onnx.ModelProto:
    """The graph: a stem, the operator, and what its role asks for."""
    rng = np.random.default_rng(sum(map(ord, case.name)))
    g = Draft(rng, case.channels, case.size)
    batch: Any = 1 if case.role == "named batch of one" else "batch"
    if case.role == "middle":
        batch = None
    first = case.role == "first"
    start = "x" if first else g.conv("x", 3, case.channels)
    result = OPERATORS[case.operator](g, start)
    outputs = [result]
    if case.role == "tapped":
        outputs += [start, "x"]
    if case.role == "residual":
        outputs.append(g.add("Relu", g.add("Add", start, g.conv(start, case.channels, case.channels))))
    inputs = [helper.make_tensor_value_info("x", FLOAT, [batch, case.channels if first else 3, case.size, case.size])]
    graph = helper.make_graph(
        g.nodes, "generated", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], g.weights
    )
    domains = {node.domain for node in g.nodes} - {""}
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    _declare(model)
    return model


def _declare(model: onnx.ModelProto) -> None:
    """Give the outputs the types that onnxruntime finds."""
    kinds = {"tensor(float)": FLOAT, "tensor(int64)": INT64, "tensor(double)": TensorProto.DOUBLE}
    described = session(model).get_outputs()
    model.graph.ClearField("output")
    for item in described:
        model.graph.output.append(helper.make_tensor_value_info(item.name, kinds[item.type], list(item.shape)))


def session(model: onnx.ModelProto) -> Any:
    """onnxruntime without its optimizations: Q/DQ pairs run as they are written, exactly."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def frames(case: Case, count: int = 6) -> list[tuple[list[str], dict[str, Any]]]:
    """Seeded frames: smooth, with a few outliers, as activations of a picture."""
    rng = np.random.default_rng(7)
    channels = case.channels if case.role == "first" else 3
    values = rng.standard_normal((count, channels, case.size, case.size)).astype(np.float32)
    return [([str(row)], {"x": values[row : row + 1]}) for row in range(count)]


def worst_db(reference: onnx.ModelProto, candidate: onnx.ModelProto, batches: list[Any]) -> dict[str, float]:
    """Signal-to-noise of each float output of one shape, by numpy alone."""
    ours, theirs = session(reference), session(candidate)
    kinds = {item.name: np.float16 if item.type == "tensor(float16)" else np.float32 for item in theirs.get_inputs()}
    signal: Counter[str] = Counter()
    noise: Counter[str] = Counter()
    names = [item.name for item in ours.get_outputs()]
    for _, feeds in batches:
        answers = theirs.run(names, {name: array.astype(kinds[name]) for name, array in feeds.items()})
        for name, wanted, found in zip(names, ours.run(names, feeds), answers, strict=True):
            if wanted.dtype.kind == "f" and wanted.shape == found.shape:
                exact = np.where(np.isfinite(wanted), wanted, 0).astype(np.float64)
                signal[name] += float((exact**2).sum())
                noise[name] += float(((np.where(np.isfinite(wanted), found, 0) - exact) ** 2).sum())
    return {n: 10 * float(np.log10(signal[n] / noise[n])) if signal[n] and noise[n] else 200.0 for n in signal}


PLANS = {
    "onnxruntime": QuantizeOptions("onnxruntime", "int8"),
    "tensorrt": QuantizeOptions("tensorrt", "int8-fp32"),
    "fp16": QuantizeOptions("tensorrt", "fp16"),
}


def attempt(case: Case, plan: str, folder: Path) -> str:
    """Calibrate and quantize; what is wrong, "" for nothing, or "refused: …" in edgeship's words."""
    model, batches = make(case), frames(case)
    onnx.save(model, folder / "model.onnx")
    try:
        known = None
        if plan != "fp16":
            calibrate(folder / "model.onnx", Batches(batches), folder / "c.cache", CalibrateOptions(method="minmax"))
            known = calibration_cache.load(folder / "c.cache", calibration_cache.Expected())
        quantize(folder / "model.onnx", known, folder / "q.onnx", batches, PLANS[plan])
    except EdgeshipError as error:
        return f"refused: {type(error).__name__}: {error.found}"
    found = worst_db(model, onnx.load(folder / "q.onnx"), batches)
    low = {name: round(value, 1) for name, value in found.items() if value < 10}
    return f"below 10 dB and not refused: {low}" if low else ""


def main(step: int) -> int:
    """Try every ``step``-th graph with every plan; how many were wrong."""
    warnings.simplefilter("ignore")
    wrong = refused = total = 0
    for case in cases()[::step]:
        for plan in PLANS:
            total += 1
            with tempfile.TemporaryDirectory() as folder:
                try:
                    said = attempt(case, plan, Path(folder))
                except Exception as error:  # noqa: BLE001 - a traceback is what this looks for
                    said = f"TRACEBACK {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            refused += said.startswith("refused")
            wrong += bool(said) and not said.startswith("refused")
            if said:
                print(f"{case.name} | {plan} | {said[:400]}", flush=True)
    print(f"{total} attempts, {refused} refused in words, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
