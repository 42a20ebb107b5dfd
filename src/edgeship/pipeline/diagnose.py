"""Where the reference is doubted: what would make it better, tried on a few labelled images."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgeship import engines
from edgeship.decide import diagnosis, rulebook
from edgeship.decide.loaded_trial import Measured
from edgeship.engines import OpenOptions
from edgeship.pipeline.prepare import SLIM
from edgeship.pipeline.stages import Run
from edgeship.results import Decision
from edgeship.results.trial_folder import MODEL
from edgeship.trial.evaluate import evaluate

IMAGES = 200


def explained(run: Run, decision: Decision, base: Measured) -> Decision:
    """The decision, with what would make a doubted reference better behind its sentence."""
    doubted = any(
        rulebook.of(rule.name).name == rulebook.REFERENCE for judged in decision.judged for rule in judged.rules
    )
    evaluation, preprocess = run.config.evaluation, run.config.preprocess
    if not doubted or base.trial.evaluation is None or evaluation.images is None or preprocess is None:
        return decision
    found = [diagnosis.better_order(base.records)]
    settings = evaluation.model_copy(update={"limit": min(IMAGES, base.trial.evaluation.images), "batch": None})
    metric = next(iter(base.trial.evaluation.metrics), "")
    tried: dict[str, float] = {}
    plans = {"": preprocess, **diagnosis.preprocessings(preprocess)}
    options = OpenOptions(device="cpu", max_batch=1)
    with engines.get("onnxruntime").open(run.path(SLIM, MODEL), options) as runner:
        for words, plan in plans.items():
            run.progress(len(tried), len(plans), "the reference with other preprocessing")
            with tempfile.TemporaryDirectory() as scratch:
                judged = evaluate(runner, settings, plan, folder=Path(scratch))
            tried[words] = judged.metrics.get(metric, 0.0)
    found.append(diagnosis.better_preprocessing(metric, tried.pop(""), tried))
    said = [item for item in found if item]
    text = "; ".join(said) or "neither another order of the classes nor another preprocessing makes it better"
    return decision.model_copy(update={"sentence": f"{decision.sentence} Diagnosis: {text}."})
