"""What an activation maps to one value gets no steps of the grid, and nothing that is told apart is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_support import graph, node

from edgeship.prepare import calibration_cache
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.compare import Snr
from edgeship.prepare.dead_zones import GELU_LOWEST, SILU_LOWEST, needed_ranges, within
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.qdq_onnxruntime import ort_graph
from edgeship.prepare.running import Running

IMAGE = ["batch", 3, 16, 16]
INF = np.inf
VALUES = {"two": 2, "three": 3, "six": 6, "zero": 0, "less": -1}
NUMBERS = {name: np.float32(value) for name, value in VALUES.items()}
PARTS = [
    node("Add", "c three", "a"), node("Clip", "a zero six", "k"), node("Mul", "c k", "p"), node("Div", "p six", "h"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("behind", "needed"),
    [
        ([node("HardSwish", "c", "h")], {"c": (-3, INF)}),
        (PARTS, {"c": (-3, INF), "a": (0, 6)}),
        ([node("HardSigmoid", "c", "h", alpha=0.25)], {"c": (-2, 2)}),
        ([node("Sigmoid", "c", "s"), node("Mul", "c s", "h")], {"c": (SILU_LOWEST, INF)}),
        ([node("Gelu", "c", "h")], {"c": (GELU_LOWEST, INF)}),
        ([node("Mul", "c two", "d"), node("Add", "d three", "e"), node("HardSwish", "e", "h")],
         {"c": (-3, INF), "d": (-6, INF), "e": (-3, INF)}),
        ([node("Mul", "less c", "d"), node("HardSwish", "d", "h")], {"c": (-INF, 3), "d": (-3, INF)}),
        ([node("Div", "c two", "d"), node("Relu", "d", "h")], {"c": (0, INF), "d": (0, INF)}),
        ([node("Sigmoid", "c", "h")], {}),
        ([node("HardSwish", "c", "g"), node("Add", "c g", "h")], {}),
        ([node("Mul", "c c", "h")], {}),
        ([node("Div", "two c", "d"), node("HardSwish", "d", "h")], {"d": (-3, INF)}),
    ],
)  # fmt: skip
def test_what_activations_tell_apart(behind: list[onnx.NodeProto], needed: dict[str, tuple[float, float]]) -> None:
    model = graph([node("Conv", "x w", "c"), *behind, node("Conv", "h v", "y")], NUMBERS, IMAGE, ["y"])
    assert needed_ranges(model) == needed


def test_an_output_is_needed_whole() -> None:
    model = graph([node("Conv", "x w", "c"), node("HardSwish", "c", "y")], {}, IMAGE, ["c", "y"])
    assert needed_ranges(model) == {}


def test_zero_and_what_is_needed_lie_inside() -> None:
    low, high = within((-20.0, 12.0), (-3.0, INF))
    assert high == 12.0 and -3.1 < low < -3.05
    assert within((-1.0, 2.0), (-3.0, INF)) == (-1.0, 2.0)
    assert within((-8.0, -1.0), (2.0, INF)) == (-8.0, -1.0)
    low, high = within((-8.0, 8.0), (1.0, INF))
    assert -0.04 < low <= 0.0 and high == 8.0


@pytest.mark.parametrize("behind", [[node("HardSwish", "c", "h")], PARTS], ids=["one", "parts"])
def test_a_hard_swish_gains_the_steps_of_its_dead_zone(behind: list[onnx.NodeProto], tmp_path: Path) -> None:
    """The input reaches from -40 to 8: without the cut, five sixths of the grid give nothing but 0."""
    random = np.random.default_rng(0)
    weights = NUMBERS | {"w": (random.standard_normal((8, 3, 1, 1)) * 2).astype(np.float32), "b": np.full(8, -12.0)}
    weights["b"] = weights["b"].astype(np.float32)
    weights["v"] = random.standard_normal((4, 8, 1, 1)).astype(np.float32)
    model = graph([node("Conv", "x w b", "c"), *behind, node("Conv", "h v", "y")], weights, IMAGE, ["y"])
    onnx.save(model, tmp_path / "m.onnx")
    values = (random.standard_normal((6, 3, 16, 16)) * 2).astype(np.float32)
    frames = [([str(row)], {"x": values[row : row + 1]}) for row in range(6)]
    calibrate(tmp_path / "m.onnx", Batches(frames), tmp_path / "c.cache", CalibrateOptions(method="minmax"))
    known = calibration_cache.load(tmp_path / "c.cache", calibration_cache.Expected())
    reference = infer(onnx.load(tmp_path / "m.onnx"))
    wanted, found = Running(reference), Running(ort_graph(reference, known, {}))
    noise = Snr()
    for _, feeds in frames:
        noise.add(wanted.run(["y"], feeds)[0], found.run(["y"], feeds)[0])
    low, high = known.bounds("c") or (0.0, 0.0)
    assert low < -20.0 and high > 0.0
    cut = known.bounds("c", needed=needed_ranges(reference)["c"]) or (0.0, 0.0)
    assert cut[1] == high and -3.3 < cut[0] < -3.0
    assert noise.db > 25.0
