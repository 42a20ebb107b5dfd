"""How ``edgeship run`` shows predictions and the parts of a frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from edgeship.runtime import Frame

PARTS = ("preprocess", "infer", "postprocess", "total")


def frame_json(image: Path, frame: Frame, confidence: float) -> dict[str, Any]:
    """One frame as plain values. Boxes below ``confidence`` are left out."""
    timing = frame.timing
    return {
        "image": str(image),
        **_prediction(frame.prediction, confidence),
        "preprocess_ms": timing.preprocess_ms,
        "wait_ms": timing.wait_ms,
        "infer_ms": timing.infer_ms,
        "postprocess_ms": timing.postprocess_ms,
        "total_ms": timing.total_ms,
        "late": timing.late,
    }


def _prediction(prediction: Any, confidence: float) -> dict[str, Any]:
    import numpy as np

    from edgeship.metrics.predictions import Classification, Detection, Segmentation

    if isinstance(prediction, Classification):
        return {"top": [[name, round(score, 6)] for name, score in prediction.top(5)]}
    if isinstance(prediction, Detection):
        kept = prediction.above(confidence)
        rows = zip(kept.names, kept.scores.tolist(), kept.boxes.tolist(), strict=True)
        return {"boxes": [{"class": name, "score": score, "box": box} for name, score, box in rows]}
    if isinstance(prediction, Segmentation):
        values, counts = np.unique(prediction.mask, return_counts=True)
        shares = {
            (prediction.classes[value] if 0 <= value < len(prediction.classes) else str(value)): count
            for value, count in zip(values.tolist(), (counts / prediction.mask.size).tolist(), strict=True)
        }
        return {"shares": shares}
    return {"outputs": {name: list(value.shape) for name, value in prediction.outputs.items()}}


def show_frames(out: Console, told: dict[str, Any]) -> None:
    """A line for each image, then the parts of the frame against the budget."""
    for frame in told["frames"]:
        late = "  LATE" if frame["late"] else ""
        out.print(f"{frame['image']}  {_words(frame)}  {frame['total_ms']:.2f} ms{late}", markup=False)
    out.print("")
    out.print(f"{'wall ms':>12}  {'median':>8}  {'p99':>8}", markup=False)
    for part in PARTS:
        out.print(f"{part:>12}  {told['p50_ms'][part]:8.3f}  {told['p99_ms'][part]:8.3f}", markup=False)
    if told["budget_ms"] is not None:
        count = len(told["frames"])
        out.print(f"budget {told['budget_ms']:g} ms: {told['missed']} of {count} frames missed it", markup=False)


def _words(frame: dict[str, Any]) -> str:
    if "top" in frame:
        words = [f"{name} {score:.3f}" for name, score in frame["top"][:3]]
    elif "boxes" in frame:
        words = [f"{row['class']} {row['score']:.2f}" for row in frame["boxes"][:8]] or ["no box"]
    elif "shares" in frame:
        ranked = sorted(frame["shares"].items(), key=lambda item: -item[1])
        words = [f"{name} {share:.1%}" for name, share in ranked[:5]]
    else:
        words = [f"{name} {shape}" for name, shape in frame["outputs"].items()]
    return ", ".join("".join(character if character.isprintable() else " " for character in word) for word in words)
