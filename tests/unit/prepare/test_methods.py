"""Where Q/DQ pairs go is chosen by signal and time, and each placement is what it says."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from calibration_support import patches, tiny

from edgeship.errors import UserInputError
from edgeship.prepare import calibration_cache
from edgeship.prepare.calibrate import CalibrateOptions, calibrate
from edgeship.prepare.frame_checks import Batches
from edgeship.prepare.methods import _best, _nearer, products_in_int8
from edgeship.prepare.quantize import QuantizeOptions, placement_named, quantize
from edgeship.results import PlacementScore


def scores(*rows: tuple[float, int, float | None]) -> list[PlacementScore]:
    names = ("default", "products", "residual-float")
    return [
        PlacementScore(placement=name, snr_db=db, products=count, ms=ms)
        for name, (db, count, ms) in zip(names, rows, strict=True)
    ]


@pytest.mark.parametrize(
    ("rows", "free", "best"),
    [
        (((20, 9, 1.0), (30, 9, 1.04), (32, 9, 1.2)), False, "products"),  # the slow one is not taken
        (((20, 9, 1.0), (30, 9, 0.9), (32, 9, 0.8)), False, "residual-float"),
        (((20, 9, 1.0), (20.9, 9, 0.5), (20, 9, 0.5)), False, "default"),  # less than a decibel
        (((20, 9, 1.0), (40, 8, 0.5), (20, 9, 1.0)), False, "default"),  # a product fewer in INT8
        (((20, 9, None), (30, 9, None), (25, 9, None)), True, "products"),
        (((20, 9, None), (30, 9, None), (25, 9, None)), False, "default"),  # TensorRT, a convolutional network
    ],
)
def test_the_best_placement(rows: tuple[tuple[float, int, float | None], ...], free: bool, best: str) -> None:
    assert _best(scores(*rows), free=free) == best


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
