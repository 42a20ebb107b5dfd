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
    order = {"worse": 0, "other": 1, "better": 2}
    return tuple(sorted(found, key=lambda item: (order[item.harm], -item.change))[:SHOWN])


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
    classes = [str(item) for item in base["classes"]]
    sources = {item.id: item.source for item in datasets.open_dataset(run.config.evaluation).items}
    before: NDArray[Any] = base["top"][:, 0]
    after: NDArray[Any] = other["top"][:, 0]
    found = []
    for row in np.flatnonzero(before != after):
        label = int(base["label"][row])
        identity = str(base["ids"][row])
        source = sources.get(identity)
        if source is None or callable(source):
            continue
        harm = "worse" if before[row] == label else "better" if after[row] == label else "other"
        found.append(
            ChangedImage(
                image=source,
                name=identity,
                label=classes[label],
                candidate_name=name,
                reference=Answer(classes[int(before[row])], float(base["score"][row])),
                candidate=Answer(classes[int(after[row])], float(other["score"][row])),
                change=float(max(base["score"][row], other["score"][row])),
                harm=harm,
            )
        )
    return found
