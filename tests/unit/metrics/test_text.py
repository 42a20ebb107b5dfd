"""Lines of text: equal to jiwer over the corpus, and what the gate resamples."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest

from edgeship.config import Evaluation
from edgeship.decode.predictions import Text
from edgeship.metrics import text
from edgeship.metrics.paired import agreement


def line(random, least=1):
    return "".join(random.choice(list("ab1 é中"), random.integers(least, 14)))


def damaged(random, label):
    letters = [letter for letter in label if random.random() > 0.15]
    return "".join(random.choice(list("abx")) if random.random() < 0.2 else letter for letter in letters)


def records_of(pairs):
    collector = text.collector((), Evaluation(task="text"))
    for read, label in pairs:
        collector.add(Text(read), label)
    return collector.records()


def pairs_of(random, count=80):
    labels = [line(random) for _ in range(count)]
    return [(damaged(random, label) if random.random() < 0.8 else line(random, 0), label) for label in labels]


def test_equal_to_jiwer_over_the_corpus():
    random = np.random.default_rng(0)
    pairs = pairs_of(random)
    summary = text.summarize(records_of(pairs))
    wanted = jiwer.process_characters(
        [label for _, label in pairs],
        [read for read, _ in pairs],
        reference_transform=jiwer.Compose([jiwer.ReduceToListOfListOfChars()]),
        hypothesis_transform=jiwer.Compose([jiwer.ReduceToListOfListOfChars()]),
    )
    assert summary.metrics["cer"] == pytest.approx(wanted.cer, abs=1e-9)
    assert summary.metrics["exact"] == np.mean([read == label for read, label in pairs])


def test_resamples_are_figures_of_the_corpus_too():
    random = np.random.default_rng(1)
    pairs = pairs_of(random, 30)
    weights = random.integers(0, 3, len(pairs))
    repeated = [pair for pair, times in zip(pairs, weights, strict=True) for _ in range(times)]
    found = text.resample(records_of(pairs), weights[None], ["cer", "exact"])
    wanted = text.summarize(records_of(repeated)).metrics
    assert {name: value[0] for name, value in found.items()} == pytest.approx(wanted)


def test_agreement_is_of_what_was_read():
    one, other = records_of([("ab", "xy"), ("q", "q")]), records_of([("ba", "xy"), ("q", "q")])
    assert agreement(one, other) == 0.5
    mask, right = text.successes(one, "exact", None)
    assert (mask.tolist(), right.tolist()) == ([True, True], [False, True])
    assert text.successes(one, "cer", None) is None
