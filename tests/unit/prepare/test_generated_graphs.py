"""Any graph: calibrated and quantized for both engines and FP16 without a traceback, and no output is noise unseen."""

from __future__ import annotations

from pathlib import Path

import pytest
from generated_graphs import PLANS, attempt, cases

CASES = cases()
FEW = [*CASES[::45], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1::6])]


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@pytest.mark.parametrize("plan", PLANS)
def test_a_generated_graph_is_right_or_refused(case: object, plan: str, tmp_path: Path) -> None:
    """``attempt`` runs the result by numpy and unoptimized onnxruntime; an error that is not edgeship's fails here."""
    said = attempt(case, plan, tmp_path)  # type: ignore[arg-type]
    assert not said or said.startswith("refused: "), said


def test_every_operator_works_for_one_engine_in_some_shape() -> None:
    """The list is what it says: 300 graphs and more, each role and shape among them."""
    assert len(CASES) >= 300
    assert len({case.role for case in CASES}) == 6
    assert len({(case.operator, case.role) for case in CASES}) > 300
