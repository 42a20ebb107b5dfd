"""What a run judges, and from what: the model's version, the commit of its folder, digests of model and data."""

from __future__ import annotations

from edgeship.commit import commit_of
from edgeship.files import sha256_bytes
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.prepare import SLIM
from edgeship.pipeline.stages import Run
from edgeship.pipeline.trials import REFERENCE
from edgeship.results import Lineage


def lineage(run: Run) -> Lineage:
    """The lineage of a run, as far as its stages have ended."""
    config = run.config
    digests = {"model": run.result(SLIM).model.sha256} if SLIM.name in run.results else {}
    if config.model.weights is not None and config.model.weights.is_file():
        digests["weights"] = run.hasher.file(config.model.weights)
    if CALIBRATE.name in run.results:
        digests["calibration frames"] = run.result(CALIBRATE).frames_sha256
    evaluation = run.result(REFERENCE).trials[0][1].evaluation
    if evaluation is not None:
        digests["evaluation images"] = evaluation.images_sha256
    if config.file.is_file():
        digests["config"] = sha256_bytes(config.file.read_bytes())
    commit, changed = commit_of(config.root)
    return Lineage(version=config.model.version, commit=commit, changed=changed, digests=digests)
