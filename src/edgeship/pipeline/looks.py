"""The attempts at a model, kept beside its run: every undecided one is paid for by those that follow."""

from __future__ import annotations

from pathlib import Path

from edgeship.decide import rulebook
from edgeship.pipeline.stages import Run
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.results import Decision, Look, Looks, read, write

NAME = "looks.json"


def _place(run: Run) -> Path:
    return run.folder / NAME


def _known(run: Run) -> tuple[Look, ...]:
    return read(Looks, _place(run)).looks if _place(run).is_file() else ()


def _this(reference: TargetTrials, trials: TargetTrials) -> Look:
    """The look that this run takes: the model (its fp32 engine), the images and the trials."""
    _, base, _ = reference.trials[0]
    return Look(
        model=base.build.engine.sha256 if base.build is not None else "",
        target=trials.name,
        images=base.evaluation.images_sha256 if base.evaluation is not None else "",
        trials=tuple(sorted(folder.name for folder in trials.folders())),
    )


def earlier(run: Run, reference: TargetTrials, trials: TargetTrials) -> int:
    """How many undecided looks at this model came before: at other images, or at other engines."""
    this = _this(reference, trials)
    place = (this.model, this.target)
    before = {(look.images, look.trials) for look in _known(run) if (look.model, look.target) == place}
    return len(before - {(this.images, this.trials)})


def record(run: Run, reference: TargetTrials, trials: TargetTrials, decision: Decision) -> None:
    """Remember a verdict that more images could have decided."""
    rules = [rule for judged in decision.judged for rule in rulebook.of_kind(judged.rules, "accuracy")]
    undecided = any(rule.outcome == "inconclusive" and rule.measured is not None for rule in rules)
    look, known = _this(reference, trials), _known(run)
    if decision.verdict == "INCONCLUSIVE" and undecided and look not in known:
        write(Looks(looks=(*known, look)), _place(run))
