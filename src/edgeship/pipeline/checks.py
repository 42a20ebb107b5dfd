"""What is checked before anything long begins."""

from __future__ import annotations

from edgeship import metrics
from edgeship.config import Config
from edgeship.data import datasets
from edgeship.data.datasets import Dataset
from edgeship.data.frames import image_files
from edgeship.data.reference import is_reference
from edgeship.decide import gate
from edgeship.errors import ConfigError, DataError
from edgeship.metrics import Task
from edgeship.pipeline.stages import Step


def check_data(config: Config) -> None:
    """Open every dataset of the config, and look up the names in its gate, before anything long begins.

    Raises:
        DataError: Absent, empty, unreadable or mislabelled.
        ConfigError: INT8 without frames; a rule about a metric or a class that is not there.
        UserInputError: No such task.
    """
    task = metrics.get(config.evaluation.task)
    settings = config.calibration
    source = settings.images
    if source is not None and not is_reference(source):
        image_files(source)
    if settings.npz is not None and not settings.npz.is_file():
        raise DataError(f"no calibration frames at {settings.npz}", do="fix calibration.npz, or set calibration.images")
    if config.evaluation.images is not None:
        if config.preprocess is None:
            raise ConfigError(["preprocess: missing; evaluation images need it"])
        check_gate(config, task, datasets.open_dataset(config.evaluation))


def check_gate(config: Config, task: Task, dataset: Dataset) -> None:
    """Refuse rules about metrics and classes that the evaluation will not give, as far as its labels tell.

    Names that are only numbers may be extended by the model's outputs: those are checked when the gate judges.

    Raises:
        ConfigError: Every such name, with the nearest one that is there.
    """
    classes = None if dataset.numbered or not dataset.classes else dataset.classes
    problems = gate.unknown_class_metric(config.gate, task)
    problems += gate.unknown_names(config.gate, task.metric_names(classes), classes)
    if problems:
        raise ConfigError(problems, where=str(config.file))


CHECK = Step("check", lambda run: check_data(run.config))
