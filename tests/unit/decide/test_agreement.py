"""Agreement and score shift for every task, with bounds from the task's own answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeship.decide.agreement import compare_answers
from edgeship.decide.drops import Reference


def detections(scores: np.ndarray, moved: int = 0) -> dict[str, Any]:
    """One box an image; the first ``moved`` lie elsewhere."""
    count = len(scores)
    box = np.tile(np.array([10.0, 10.0, 50.0, 50.0], np.float32), (count, 1))
    box[:moved] += 100
    return {
        "task": np.array("detection"),
        "ids": np.arange(count).astype(np.str_),
        "count": np.array(count),
        "operating_confidence": np.array(0.25),
        "det_image": np.arange(count),
        "det_score": scores.astype(np.float32),
        "det_label": np.zeros(count, np.int32),
        "det_box": box,
    }


def test_boxes_agree_image_by_image_and_their_scores_shift():
    before = detections(np.full(200, 0.8))
    after = detections(np.full(200, 0.7), moved=10)
    found = compare_answers(Reference(before, 0.95, 400), after)
    assert found is not None
    assert found.share == pytest.approx(0.95)
    assert 0.90 < found.sure < 0.95
    assert found.score_shift == pytest.approx(-0.1, abs=1e-6)
    assert "bootstrap" in found.method


def test_masks_agree_by_their_points_and_have_no_scores():
    grid = np.zeros((60, 64, 64), np.int16)
    other = grid.copy()
    other[:30, :8] = 1
    before = {"task": np.array("segmentation"), "ids": np.arange(60).astype(np.str_), "grid": grid}
    found = compare_answers(Reference(before, 0.95, 400), {**before, "grid": other})
    assert found is not None
    assert found.share == pytest.approx(1 - 0.5 * 8 / 64)
    assert found.score_shift is None
    assert found.sure < found.share


def test_a_task_of_ones_own_has_an_exact_bound():
    before = {"task": np.array("a:b"), "ids": np.arange(100).astype(np.str_), "value/x": np.arange(100.0)}
    after = {**before, "value/x": np.where(np.arange(100) < 3, -1.0, np.arange(100.0))}
    found = compare_answers(Reference(before, 0.95, 400), after)
    assert found is not None
    assert found.share == pytest.approx(0.97)
    assert found.sure == pytest.approx(0.9244, abs=1e-3)
    assert "Clopper-Pearson" in found.method


def test_no_boxes_on_either_side_is_agreement_as_far_as_it_was_seen():
    nothing = detections(np.full(100, 0.1))
    found = compare_answers(Reference(nothing, 0.95, 200), nothing)
    assert found is not None
    assert (found.share, found.score_shift) == (1.0, None)
    assert found.sure == pytest.approx(0.05 ** (1 / 100), abs=1e-6)


def test_no_images_agree_on_nothing():
    assert compare_answers(Reference(detections(np.zeros(0)), 0.95, 200), detections(np.zeros(0))) is None
