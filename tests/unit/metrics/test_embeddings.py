"""Embeddings: recall at k as scikit-learn's neighbours give it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from edgeship.config import Evaluation
from edgeship.decode.predictions import Embedding
from edgeship.metrics import embeddings


def records_of(vectors, labels):
    collector = embeddings.collector((), Evaluation(task="embeddings"))
    for vector, label in zip(vectors, labels, strict=True):
        collector.add(Embedding(vector), label)
    return collector.records()


def test_equal_to_scikit_learn():
    random = np.random.default_rng(0)
    labels = random.integers(0, 30, 600)
    vectors = (random.normal(size=(30, 8))[labels] + random.normal(0, 1.2, (600, 8))).astype(np.float32)
    labels[:2] = (40, 41)  # alone in their class
    records = records_of(vectors, labels)
    judge = NearestNeighbors(n_neighbors=11, metric="cosine", algorithm="brute").fit(vectors.astype(np.float64))
    order = judge.kneighbors(return_distance=False, n_neighbors=10)
    summary = embeddings.summarize(records)
    for depth in (1, 5, 10):
        hit = (labels[order[:, :depth]] == labels[:, None]).any(axis=1)
        assert summary.metrics[f"recall{depth}"] == pytest.approx(hit[2:].mean(), abs=1e-9)
        counted, found = embeddings.successes(records, f"recall{depth}", None)
        assert (counted.sum(), found[counted].mean()) == (598, pytest.approx(hit[2:].mean()))
    assert records["nearest"].tolist() == order[:, 0].tolist()


def test_small_sets_and_vectors_of_zeros():
    assert embeddings.summarize(records_of(np.zeros((1, 3), np.float32), [0])).metrics == {}
    found = embeddings.summarize(records_of(np.zeros((3, 3), np.float32), [0, 0, 1])).metrics
    assert found == {"recall1": 1.0, "recall5": 1.0, "recall10": 1.0}


def test_of_equal_similarities_the_first_comes_first():
    random = np.random.default_rng(3)
    for _ in range(20):
        vectors = random.integers(-1, 2, (int(random.integers(2, 40)), 3))
        square = (vectors**2).sum(axis=1)
        inside = vectors @ vectors.T
        for row, dots in enumerate(inside.tolist()):
            others = [place for place in range(len(vectors)) if place != row]
            # the square of the cosine with its sign, exactly
            alike = [
                Fraction(dot * abs(dot), int(max(square[row] * square[place], 1))) for place, dot in enumerate(dots)
            ]
            wanted = sorted(others, key=lambda place: -alike[place])[:5]
            assert embeddings.nearest(vectors.astype(np.float32), 5)[row].tolist() == wanted
