"""What the outputs hold, read once from the graph: nothing later may decide it image by image."""

from __future__ import annotations

from pathlib import Path

from edgeship.config import Evaluation
from edgeship.engines.onnx_file import BOUNDED, LINEAR, exponent_behind, last_activations
from edgeship.pipeline.prepare import SLIM
from edgeship.pipeline.stages import Run, Step


def with_scores(settings: Evaluation, model: Path) -> Evaluation:
    """The settings with ``scores`` and ``box_values`` as the end of an ONNX file tells them; as they are where it does
    not.

    A softmax ends in probabilities, a last layer with weights in logits. A segmentation network with one output, or
    with ``output`` set, ends in probabilities after a sigmoid too, and otherwise in logits. A YOLOX head whose boxes
    are decoded takes the exponential of their sizes. A text detector (``db``) that ends in a last layer with weights
    gives logits, after a sigmoid probabilities. Raises ModelError.
    """
    if settings.tasks:
        tasks = {name: with_scores(item, model) for name, item in settings.tasks.items()}
        return settings.model_copy(update={"tasks": tasks})
    if settings.task == "detection" and settings.decoder in (None, "yolox"):
        return _with_boxes(settings, model)
    text = settings.task == "rotated" and settings.decoder in (None, "db")
    if settings.scores != "auto" or (settings.task not in ("classification", "segmentation") and not text):
        return settings
    ends = last_activations(model)
    name = settings.output or (next(iter(ends)) if len(ends) == 1 else None)
    if name not in ends:
        return settings
    if ends[name] == "Softmax" or (settings.task != "classification" and ends[name] in BOUNDED):
        return settings.model_copy(update={"scores": "probabilities"})
    logits = settings.task == "segmentation" or ends[name] in LINEAR
    return settings.model_copy(update={"scores": "logits"}) if logits else settings


def _with_boxes(settings: Evaluation, model: Path) -> Evaluation:
    ends = exponent_behind(model) if settings.box_values == "auto" else {}
    name = settings.output or (next(iter(ends)) if len(ends) == 1 else None)
    if name not in ends:
        return settings
    return settings.model_copy(update={"box_values": "decoded" if ends[name] else "raw"})


def read_head(run: Run) -> None:
    """Write into the run's config what the graph's end tells."""
    evaluation = with_scores(run.config.evaluation, run.path(SLIM, "model.onnx"))
    run.config = run.config.model_copy(update={"evaluation": evaluation})


HEAD = Step("head", read_head)
