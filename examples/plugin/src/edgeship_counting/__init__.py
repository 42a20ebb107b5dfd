"""A task, a decoder and a tracker that edgeship finds by its entry points; ``engine`` beside them is an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def spread(outputs: Mapping[str, Any], _target: Any) -> dict[str, float]:
    """The task ``spread``: how far the largest of an image's outputs lies above the smallest. Needs no label."""
    (scores,) = outputs.values()
    return {"spread": float(np.max(scores) - np.min(scores))}


def tenfold(outputs: Mapping[str, Any], _geometry: Any) -> Any:
    """The decoder ``tenfold``: class scores, ten times the logits of the only output."""
    (logits,) = outputs.values()
    return 10 * np.asarray(logits)


def textfile(told: Any, where: str) -> None:
    """The tracker ``textfile``: a line for each run."""
    with Path(where).open("a", encoding="utf-8") as stream:
        stream.write(f"{told.model} {told.verdict}\n")
