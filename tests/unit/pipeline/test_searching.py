"""What of the search's wiring can be told without a run."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.decide.measured import Measured
from edgeship.pipeline.searching import preview_db
from edgeship.results import Candidate, Trial

TRIAL = Trial(candidate=Candidate(name="int8-keep2", precision="int8"), engine="tensorrt", device="cuda:0")


def test_the_worst_output_says_how_far_the_target_is_from_the_preview():
    wanted = {"boxes": np.full((4, 10), 2.0, np.float32), "scores": np.ones((4, 3), np.float32)}
    built = {"boxes": wanted["boxes"] + np.float32(0.02), "scores": wanted["scores"] + np.float32(0.1)}
    assert preview_db(Measured(TRIAL, outputs=wanted), Measured(TRIAL, outputs=built)) == pytest.approx(20.0, abs=0.01)


def test_outputs_that_cannot_be_compared_say_nothing():
    wanted = {"boxes": np.ones((4, 10), np.float32)}
    assert preview_db(Measured(TRIAL, outputs=wanted), Measured(TRIAL, outputs={})) is None
    assert preview_db(Measured(TRIAL), Measured(TRIAL, outputs=wanted)) is None
    other = {"boxes": np.ones((1, 10), np.float32)}
    assert preview_db(Measured(TRIAL, outputs=wanted), Measured(TRIAL, outputs=other)) is None
