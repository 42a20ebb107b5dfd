"""Text lines and embeddings out of a network's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.data.preprocess import Geometry
from edgeship.decode.decoders import decode_predictions
from edgeship.errors import OutputError

SQUARE = Geometry(8, 8, 8, 8)


def read(steps, symbols, classes, **given):
    outputs = {"logits": np.eye(symbols, dtype=np.float32)[np.array([steps])]}
    (found,) = decode_predictions("text", None, outputs, [SQUARE], Evaluation(task="text", **given), classes)
    return found.text


def test_repeats_and_blanks_are_removed():
    assert read([0, 1, 1, 0, 1, 2, 2, 0], 4, ("a", "b", "c")) == "aab"
    assert read([3, 0, 0, 3, 0, 1, 1, 3], 4, ("a", "b", "c"), ctc_blank="last") == "aab"
    assert read([1, 3, 2], 4, ("a", "b")) == "a b"
    assert read([0, 0], 4, ("a", "b", "c")) == ""


def test_a_dictionary_of_another_length_is_refused():
    with pytest.raises(OutputError, match="the model gives 9 symbols a step, 3 class names were given"):
        read([0, 1], 9, ("a", "b", "c"))


def test_steps_before_the_batch_are_refused():
    outputs = {"logits": np.zeros((26, 1, 4), np.float32)}
    with pytest.raises(OutputError, match="the steps come first"):
        decode_predictions("text", None, outputs, [SQUARE], Evaluation(task="text"), ("a", "b", "c"))


def test_vectors():
    vectors = np.random.default_rng(0).normal(size=(2, 5, 1, 1)).astype(np.float32)
    settings = Evaluation(task="embeddings")
    found = decode_predictions("embeddings", None, {"v": vectors}, [SQUARE, SQUARE], settings, ())
    assert [item.vector.tolist() for item in found] == vectors[:, :, 0, 0].tolist()
    with pytest.raises(OutputError, match="2 of them could be the embedding"):
        decode_predictions("embeddings", None, {"v": vectors, "w": vectors}, [SQUARE], settings, ())
