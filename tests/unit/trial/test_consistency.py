"""Engines whose answers depend on their neighbours, the batch or the repeat fail; honest ones pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeship import engines
from edgeship.config import Batch
from edgeship.engines import OpenOptions
from edgeship.errors import InconsistentError
from edgeship.results import Consistency, TensorInfo
from edgeship.trial.consistency import CEILING_DB, Asked, audit_consistency, require_consistent, several, worst_row_db

ASKED = Asked("fp32", Batch(min=1, opt=4, max=8), timed=4)
ROWS = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)


def open_graph(folder: Path, nodes: list[Any], batch: str | int = "batch", **weights: Any) -> Any:
    """x [batch, 6] → y."""
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "m.onnx")
    return engines.get("onnxruntime").open(folder / "m.onnx", OpenOptions())


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def audited(runner: Any, asked: Asked = ASKED, rows: np.ndarray = ROWS) -> Consistency:
    with runner:
        return audit_consistency(runner, {"x": rows}, asked)


PRODUCT = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


def test_rows_on_their_own_pass_every_comparison(tmp_path: Path) -> None:
    found = audited(open_graph(tmp_path, [node("MatMul", "x w", "y")], w=PRODUCT))
    require_consistent(found)
    assert [check.kind for check in found.checks] == [
        "repeat", "equal rows", "other neighbours", "permuted rows", "batches", "batches",
    ]  # fmt: skip
    assert [check.what for check in found.checks[4:]] == ["batch 1 against batch 8", "batch 4 against batch 8"]
    assert all(check.db is not None and check.db > 100 for check in found.checks)


@pytest.mark.parametrize(
    ("nodes", "weights", "kinds"),
    [
        ([node("ReduceMean", "x zero", "m"), node("Sub", "x m", "y")], {"zero": np.array([0])}, {"batches"}),
        (
            [node("CumSum", "x axis", "s"), node("Sigmoid", "s", "y")],
            {"axis": np.array(0)},
            {"equal rows", "permuted rows", "batches"},
        ),
        (
            [node("ReduceMax", "x zero", "m"), node("Div", "x m", "d"), node("Exp", "d", "y")],
            {"zero": np.array([0])},
            {"batches"},
        ),
        ([node("RandomNormalLike", "x", "n"), node("Add", "x n", "y")], {}, {"repeat", "equal rows"}),
    ],
    ids=["subtracts the batch mean", "sums over rows", "scales by the batch", "draws random numbers"],
)
def test_rows_that_leak_fail(tmp_path: Path, nodes: list[Any], weights: dict[str, Any], kinds: set[str]) -> None:
    found = audited(open_graph(tmp_path, nodes, **weights))
    assert kinds <= {check.kind for check in found.checks if not check.passed}
    with pytest.raises(InconsistentError, match=r"depend on more than the frame.*batch"):
        require_consistent(found)


def test_a_batch_of_one_is_only_repeated(tmp_path: Path) -> None:
    found = audited(open_graph(tmp_path, [node("MatMul", "x w", "y")], batch=1, w=PRODUCT), Asked("fp32", Batch(), 1))
    assert [check.kind for check in found.checks] == ["repeat"]
    assert "one row at a time" in found.notes[0]


def test_a_fixed_batch_is_permuted(tmp_path: Path) -> None:
    nodes = [node("CumSum", "x axis", "y")]
    asked = Asked("fp32", Batch(min=4, opt=4, max=4), 4)
    found = audited(open_graph(tmp_path, nodes, batch=4, axis=np.array(0)), asked)
    assert [check.kind for check in found.checks] == ["repeat", "equal rows", "other neighbours", "permuted rows"]
    assert not found.checks[3].passed


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
def test_a_fixed_batch_whose_mean_leaks_is_seen_by_other_neighbours(tmp_path: Path, kind: str) -> None:
    """Repeats, equal rows and another order leave a mean over the batch as it is."""
    nodes = [node(kind, "x zero", "m"), node("Sub", "x m", "d"), node("Exp", "d", "y")]
    asked = Asked("fp32", Batch(min=4, opt=4, max=4), 4)
    found = audited(open_graph(tmp_path, nodes, batch=4, zero=np.array([0])), asked)
    assert [check.kind for check in found.checks if not check.passed] == ["other neighbours"]
    honest = audited(open_graph(tmp_path, [node("MatMul", "x w", "y")], batch=4, w=PRODUCT), asked)
    require_consistent(honest)


def test_a_single_frame_gets_a_different_neighbour(tmp_path: Path) -> None:
    frames = several({"x": ROWS[:1]}, [TensorInfo(name="x", shape=("batch", *ROWS.shape[1:]), dtype="float32")])
    assert len(frames["x"]) == 2 and not np.array_equal(frames["x"][0], frames["x"][1])
    nodes = [node("ReduceMean", "x zero", "m"), node("Sub", "x m", "y")]
    found = audited(open_graph(tmp_path, nodes, zero=np.array([0])), rows=frames["x"])
    assert not all(check.passed for check in found.checks)


def test_the_tolerance_follows_the_precision() -> None:
    assert [Asked(precision, Batch(), 1).min_db for precision in ("fp32", "fp16", "int8", "fp8")] == [60, 35, 20, 20]  # type: ignore[arg-type]
    assert Asked("fp32", Batch(), 1, tf32=True).min_db == 40


def test_noise_is_that_of_the_worst_row() -> None:
    one = np.ones((10, 4))
    other = one.copy()
    assert worst_row_db(one, other) == CEILING_DB
    other[7] *= 1.1
    assert worst_row_db(one, other) == pytest.approx(20.0)
    other[7] = one[7]
    other[2, 0] = np.nan
    assert worst_row_db(one, other) is None
    detections = np.random.default_rng(0).random((3, 20))
    assert worst_row_db(detections, detections[:, ::-1]) == CEILING_DB
    assert worst_row_db(detections, detections[::-1]) < 20  # type: ignore[operator]
