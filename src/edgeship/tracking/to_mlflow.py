"""A run in MLflow: parameters, metrics with their bounds, tags, the report, and the model's version on SHIP."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgeship.errors import MissingExtra
from edgeship.tracking.told import Told

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
"""A server that is down is told at once."""
PARAMETER_CHARS = 500
BATCH = 100
"""Parameters in one request."""


def track(told: Told, where: str) -> None:
    """Tell a run to MLflow.

    Args:
        told: The run.
        where: A tracking URI: ``sqlite:///mlflow.db``, ``http://host:5000``.

    Raises:
        MissingExtra: mlflow-skinny is not installed.
        Exception: Whatever MLflow raises: the caller is a process of its own.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    try:
        import mlflow
    except ImportError:
        raise MissingExtra("track.mlflow", "mlflow", "mlflow") from None
    mlflow.set_tracking_uri(where)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(told.experiment)
    number = (
        experiment.experiment_id if experiment is not None else client.create_experiment(told.experiment, _store(where))
    )
    run = client.create_run(number, run_name=f"{told.model} {told.version}".strip())
    key = run.info.run_id
    parameters = [
        mlflow.entities.Param(_plain(name), value[:PARAMETER_CHARS]) for name, value in told.parameters.items()
    ]
    for first in range(0, len(parameters), BATCH):
        client.log_batch(key, params=parameters[first : first + BATCH])
    metrics = [mlflow.entities.Metric(_plain(name), value, 0, 0) for name, value in told.metrics.items()]
    for first in range(0, len(metrics), BATCH):
        client.log_batch(key, metrics=metrics[first : first + BATCH])
    tags = told.tags | {"mlflow.note.content": told.sentence}
    client.log_batch(key, tags=[mlflow.entities.RunTag(_plain(name), value) for name, value in tags.items()])
    for path in told.artifacts:
        client.log_artifact(key, str(path))
    for folder in told.bundles:
        client.log_artifacts(key, str(folder), folder.name)
    client.set_terminated(key)
    if told.verdict == "SHIP" and told.registered and told.bundles:
        _register(client, told, key, f"{run.info.artifact_uri}/{told.bundles[0].name}")


def _register(client: object, told: Told, key: str, source: str) -> None:
    """A new version of the registered model, under the alias of what ships."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(told.registered)  # type: ignore[attr-defined]
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(told.registered, source, key)  # type: ignore[attr-defined]
    client.set_registered_model_alias(told.registered, told.alias, made.version)  # type: ignore[attr-defined]


def _store(where: str) -> str | None:
    """Where the files of a store without a server lie: beside its database; a server has its own place."""
    return (Path.cwd() / "mlartifacts").as_uri() if where.startswith("sqlite:") else None


def _plain(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return re.sub(r"[^\w./ -]", "_", name)
