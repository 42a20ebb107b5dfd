"""Why a reference may be no better than chance: another order of the classes, or another preprocessing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeship.config import Preprocess
from edgeship.decide.loaded_trial import Arrays

CLEARLY = 0.1
"""What a change must gain before it is named."""
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
MOST_PAIRS = 6


def preprocessings(preprocess: Preprocess) -> dict[str, Preprocess]:
    """What a model was often trained with instead, by what to change: colours, the range of pixels, mean and std."""
    found: dict[str, Preprocess] = {}

    def add(words: str, **changes: object) -> None:
        found[words] = preprocess.model_copy(update=changes)

    if preprocess.color != "gray":
        other = "bgr" if preprocess.color == "rgb" else "rgb"
        add(f'color = "{other}"', color=other)
        add("scale = 1 and ImageNet's mean and std in pixels", scale=1.0, mean=IMAGENET[0], std=IMAGENET[1])
    add(f"scale = {preprocess.scale * 255:.6g}", scale=preprocess.scale * 255)
    add(f"scale = {preprocess.scale / 255:.6g}", scale=preprocess.scale / 255)
    if any(preprocess.mean) or any(value != 1 for value in preprocess.std):
        add("no mean and std", mean=(0.0,), std=(1.0,))
        add("scale = 1 with this mean and std", scale=1.0)
        add("scale = 1/255, no mean and std", scale=1 / 255, mean=(0.0,), std=(1.0,))
    return {words: item for words, item in found.items() if item != preprocess}


def better_preprocessing(metric: str, own: float, tried: Mapping[str, float]) -> str:
    """Which preprocessing gives a clearly better metric; empty where none does."""
    if not tried:
        return ""
    words = max(tried, key=lambda item: tried[item])
    if tried[words] < own + CLEARLY:
        return ""
    return f"with {words} the reference's {metric} is {tried[words]:.4f} instead of {own:.4f}"


def better_order(records: Arrays) -> str:
    """Which order of the classes gives a clearly better top-1; empty where none does, and for other tasks.

    The best one-to-one assignment on the confusion matrix (scipy's linear_sum_assignment).
    """
    if str(records["task"]) != "classification" or len(records["label"]) == 0:
        return ""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        return "install scipy to have other orders of the classes tried"
    label, said = records["label"], records["top"][:, 0]
    classes = records["classes"].tolist()
    table = np.zeros((len(classes), len(classes)))
    np.add.at(table, (label, said), 1)
    own = float(np.trace(table) / table.sum())
    rows, columns = linear_sum_assignment(-table)
    best = float(table[rows, columns].sum() / table.sum())
    if best < own + CLEARLY:
        return ""
    shown = table.sum(axis=1) > 0
    moved = [(row, column) for row, column in zip(rows, columns, strict=True) if row != column and shown[row]]
    if len(moved) == 2:
        first, second = (str(classes[row]) for row, _ in moved)
        return (
            f"with the classes {first!r} and {second!r} swapped the reference's top1 is {best:.4f} instead of {own:.4f}"
        )
    pairs = ", ".join(f"{classes[row]!r} answered as {classes[column]!r}" for row, column in moved[:MOST_PAIRS])
    more = f" and {len(moved) - MOST_PAIRS} more" if len(moved) > MOST_PAIRS else ""
    return f"in another order of the classes ({pairs}{more}) the reference's top1 is {best:.4f} instead of {own:.4f}"
