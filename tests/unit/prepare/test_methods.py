"""Where Q/DQ pairs go is chosen by signal and time, and each placement is what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_support import patches, tiny

from edgeship.errors import UserInputError
from edgeship.prepare import calibration_cache
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.chance import surely_larger
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.methods import ROUNDS, _best, _nearer, products_in_int8, timed
from edgeship.prepare.quantize import QuantizeOptions, placement_named, quantize
from edgeship.results import PlacementScore

NAMES = ("default", "products", "residual-float")


def scores(*rows: tuple[float, int]) -> tuple[PlacementScore, ...]:
    return tuple(
        PlacementScore(placement=name, snr_db=db, products=count)  # type: ignore[arg-type]
        for name, (db, count) in zip(NAMES, rows, strict=True)
    )


def chosen(found: tuple[PlacementScore, ...], *rounds: list[float]) -> str:
    return _best(timed(found, dict(zip(NAMES, rounds, strict=True))), free=False)  # type: ignore[arg-type]


CLEAR = scores((20, 9), (30, 9), (32, 9))


@pytest.mark.parametrize(
    ("found", "times", "best"),
    [
        (CLEAR, (1.0, 1.04, 1.2), "products"),  # the slow one is not taken
        (CLEAR, (1.0, 0.9, 0.8), "residual-float"),
        (CLEAR, (1.0, 1.04, 1.04), "residual-float"),
        (CLEAR, (1.0, 1.2, 1.2), "default"),
        (scores((20, 9), (20.9, 9), (20, 9)), (1.0, 0.5, 0.5), "default"),  # less than a decibel
        (scores((20, 9), (40, 8), (20, 9)), (1.0, 0.5, 1.0), "default"),  # a product fewer in INT8
    ],
)
def test_the_best_placement(found: tuple[PlacementScore, ...], times: tuple[float, ...], best: str) -> None:
    assert chosen(found, *([ms] * ROUNDS for ms in times)) == best


@pytest.mark.parametrize("free", [True, False])  # TensorRT: with attention, and a convolutional network
def test_what_cannot_be_timed_is_taken_where_sums_cost_nothing(free: bool) -> None:
    assert _best(scores((20, 9), (30, 9), (25, 9)), free=free) == ("products" if free else "default")


def loaded(ms: float, seed: int, share: float) -> list[float]:
    """Rounds on a machine that something else takes in ``share`` of them, for up to ten times as long."""
    random = np.random.default_rng(seed)
    taken = random.random(ROUNDS) < share
    return [ms * random.uniform(*((1.5, 10.0) if busy else (1.0, 1.02))) for busy in taken]


@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize("seed", range(8))
def test_a_loaded_machine_takes_the_same_placement(share: float, seed: int) -> None:
    seeds = (3 * seed, 3 * seed + 1, 3 * seed + 2)
    quick = [loaded(ms, one, share) for ms, one in zip((1.0, 0.9, 0.97), seeds, strict=True)]
    assert chosen(CLEAR, *quick) == "residual-float"
    slow = [loaded(ms, one, share) for ms, one in zip((1.0, 0.9, 1.6), seeds, strict=True)]
    assert chosen(CLEAR, *slow) == "products"


def test_times_that_are_not_told_apart_leave_it_to_the_signal() -> None:
    base, other = [1.0, 3.0] * 7 + [1.0], [3.0, 1.0] * 7 + [3.0]  # each longer in about every other round
    assert chosen(CLEAR, base, other, other) == "residual-float"
    (_, found, _) = timed(CLEAR, dict(zip(NAMES, (base, other, other), strict=True)))  # type: ignore[arg-type]
    assert (found.ms, found.slower) == (3.0, False)


def test_the_rank_sum_test() -> None:
    low, high = [1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 1000.0]
    assert surely_larger(high, low) and not surely_larger(low, high)
    assert not surely_larger(low, low) and not surely_larger([2.0, 1000.0, 1000.0], low)


def rounded_operators(path: Path) -> set[str]:
    """Operators, other than products, that read a rounded activation."""
    proto = onnx.load(path)
    constants = {tensor.name for tensor in proto.graph.initializer}
    rounded = {n.output[0] for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in constants}
    return {n.op_type for n in proto.graph.node if rounded.intersection(n.input)} - {"Conv", "QuantizeLinear"}


@pytest.mark.parametrize("style", ["onnxruntime", "tensorrt"])
def test_a_placement_leaves_sums_in_float_and_every_product_in_int8(style: str, tmp_path: Path) -> None:
    onnx.save(tiny("wide residual"), tmp_path / "m.onnx")
    frames = patches("residual")
    options = CalibrateOptions(method="minmax", style=style)  # type: ignore[arg-type]
    result = calibrate(tmp_path / "m.onnx", Batches(frames), tmp_path / "c.cache", options)
    assert [score.placement for score in result.placements] == ["default", "products", "residual-float"]
    in_question = style == "onnxruntime" and any(_nearer(score, result.placements[0]) for score in result.placements)
    assert all((score.ms is not None) == in_question for score in result.placements)
    known = calibration_cache.load(tmp_path / "c.cache", calibration_cache.Expected())
    assert known.placements == {style: result.placement}
    made = {}
    for placement in ("default", "products", "residual-float"):
        plan = QuantizeOptions(style, "int8-fp32", placement=placement_named(placement), layers=False)  # type: ignore[arg-type]
        quantize(tmp_path / "m.onnx", known, tmp_path / f"{placement}.onnx", frames, plan)
        made[placement] = products_in_int8(onnx.load(tmp_path / f"{placement}.onnx"))
    assert made["products"] == made["residual-float"] == made["default"] >= 2
    assert "Add" in rounded_operators(tmp_path / "default.onnx")
    if style == "tensorrt":
        assert "Add" not in rounded_operators(tmp_path / "products.onnx")
        assert "Add" not in rounded_operators(tmp_path / "residual-float.onnx")


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(UserInputError, match="unknown placement 'all'"):
        placement_named("all")
