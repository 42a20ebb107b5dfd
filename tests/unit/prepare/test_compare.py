"""What is said of outputs that a conversion turns into noise."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.errors import QuantizeError
from edgeship.prepare.compare import Comparison, Movement, require_signal


def comparison(*noisy: str, still: tuple[str, ...] = ()) -> Comparison:
    return Comparison((), dict.fromkeys(("a", "b", "my c"), 0.5), None, noisy, still=still)


def test_every_noisy_output_stands_in_the_remedy() -> None:
    with pytest.raises(QuantizeError) as refused:
        require_signal(comparison("a", "b", "my c"), ["b"], "int8")
    assert "a 0.5 dB, my c 0.5 dB" in refused.value.found
    assert '--allow-noise a --allow-noise \'my c\' (quantization.allow_noise = ["a", "my c"])' in str(refused.value.do)
    require_signal(comparison("a", "my c"), ["a", "my c"], "int8")


def test_an_output_that_says_the_same_of_every_frame_is_told() -> None:
    with pytest.raises(QuantizeError, match="in FP32 too, b is nearly the same on every frame: load trained weights"):
        require_signal(comparison("a", "b", still=("b",)), [], "int8")


def test_movement_is_measured_from_frame_to_frame() -> None:
    level = np.full((4, 8), 3.0, np.float32)
    for step, still in ((1e-5, True), (0.1, False)):
        seen = Movement()
        for row in range(4):
            seen.add(level[row : row + 1] + np.float32(step * row))
        assert seen.still is still
    alone = Movement()
    alone.add(level[:1])
    assert not alone.still, "one frame says nothing"
