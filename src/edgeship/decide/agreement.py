"""How often a candidate answers as the reference does, and how far its confidence moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeship.decide.measured import Arrays


@dataclass(frozen=True)
class Answers:
    """``agreed`` of ``images`` got the same answer; ``score_shift`` is the mean change of confidence."""

    agreed: int
    images: int
    score_shift: float | None

    @property
    def share(self) -> float:
        """Agreeing images over all."""
        return self.agreed / self.images


def compare_answers(reference: Arrays, candidate: Arrays) -> Answers | None:
    """Compare two records of the same images; None where the task's records do not tell.

    Classification: the same best class; the shift is over the images where both agree, of the probability of the
    best class.
    """
    if "top" in reference and "top" in candidate and len(reference["top"]):
        same = reference["top"][:, 0] == candidate["top"][:, 0]
        moved = candidate["score"].astype(np.float64) - reference["score"].astype(np.float64)
        shift = float(moved[same].mean()) if same.any() else None
        return Answers(int(same.sum()), len(same), shift)
    return None
