"""The images whose answer changed most between the reference and a candidate: for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeship.data import datasets
from edgeship.decide import measured
from edgeship.decide.report import Answer, ChangedImage
from edgeship.pipeline.cache import Run
from edgeship.pipeline.trials import Tries
from edgeship.results import Decision

SHOWN = 12
ORDER = {"worse": 0, "other": 1, "better": 2}
"""Harm first."""


def changed_images(run: Run, reference: Tries, tries: Tries, decision: Decision) -> tuple[ChangedImage, ...]:
    """Up to twelve images of a target, harm first, then the largest change.

    They are those of the chosen candidate, or of the last one tried that was evaluated. Empty when the candidate is the
    reference itself or nothing was evaluated.
    """
    folder = _candidate_folder(tries, decision)
    if folder is None or run.config.evaluation.images is None:
        return ()
    base, other = measured.load(reference.folders()[0]), measured.load(folder)
    if not base.records or not other.records:
        return ()
    if "top" in base.records:
        found = _classification(run, base.records, other.records, other.name)
    else:
        from edgeship.pipeline.inferring import compare_predictions

        found = compare_predictions(run, base, other, SHOWN)
    return tuple(sorted(found, key=lambda item: (ORDER[item.harm], -item.change))[:SHOWN])


def _candidate_folder(tries: Tries, decision: Decision) -> Path | None:
    """The chosen candidate's trial unless that is plain fp32; else the last evaluated quantized one's."""
    evaluated = [
        (candidate.name, folder)
        for candidate, trial, folder in tries.trials
        if trial.evaluation is not None and candidate.precision != "fp32"
    ]
    chosen = [folder for name, folder in evaluated if name == decision.chosen]
    if chosen:
        return chosen[0]
    return evaluated[-1][1] if evaluated else None


def _classification(run: Run, base: Any, other: Any, name: str) -> list[ChangedImage]:
    """The first of the images whose best class changed, in the order of :func:`changed_images`."""
    classes = [str(item) for item in base["classes"]]
    before: NDArray[Any] = base["top"][:, 0]
    after: NDArray[Any] = other["top"][:, 0]
    moved = np.flatnonzero(before != after)
    change = np.maximum(base["score"], other["score"])
    harm = {
        int(row): "worse"
        if before[row] == base["label"][row]
        else "better"
        if after[row] == base["label"][row]
        else "other"
        for row in moved
    }
    shown = sorted(harm, key=lambda row: (ORDER[harm[row]], -change[row]))[:SHOWN]
    wanted = {str(base["ids"][row]): row for row in shown}
    found = []
    for item in datasets.open_dataset(run.config.evaluation).items:
        row = wanted.get(item.id)
        if row is None:
            continue
        found.append(
            ChangedImage(
                image=item.picture(),
                name=item.id,
                label=classes[int(base["label"][row])],
                candidate_name=name,
                reference=Answer(classes[int(before[row])], float(base["score"][row])),
                candidate=Answer(classes[int(after[row])], float(other["score"][row])),
                change=float(change[row]),
                harm=harm[row],
            )
        )
    return found
