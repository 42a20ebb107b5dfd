"""The class names that a model's outputs call for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeship.config import Evaluation
from edgeship.data.dataset import Dataset
from edgeship.decode.decoders import head_classes


def fitted(dataset: Dataset, settings: Evaluation, outputs: Mapping[str, Any]) -> Dataset:
    """The labels with the class names that the outputs call for; of several tasks, each one's.

    Raises:
        DataError: The number of class names is not that of the outputs.
    """
    if not settings.tasks:
        return dataset.fitted(head_classes(settings.task, settings.decoder, outputs, settings))
    parts = {name: fitted(dataset.parts[name], item, outputs) for name, item in settings.tasks.items()}
    names = tuple(f"{name}.{each}" for name, part in parts.items() for each in part.classes)
    return replace(dataset, classes=names, parts=parts)
