"""The tables of edgeship.toml that say where finished runs are kept and told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgeship.config_inputs import Section


class History(Section):
    """Where finished runs are kept, to be looked up, exported and compared with."""

    file: Path = Path("edgeship-history.sqlite")
    """SQLite; several models and several runs at once may share it."""
    append: bool = True
    """Append every finished run, once. Of a run that ships, what its engine answered is kept too, so that a later run
    can be compared with it (``gate.baseline``)."""
    fleet: str = Field(default="", exclude=True)
    """The fleet run that this run is part of."""


class Track(Section):
    """Experiment trackers that finished runs are told to. One that is down fails no run."""

    mlflow: str | None = None
    """MLflow's tracking URI: ``sqlite:///mlflow.db``, or a server, ``http://host:5000``."""
    plugins: dict[str, str] = Field(default_factory=dict)
    """Trackers of installed packages: the name of an entry point in ``edgeship.trackers``, and where it tells."""
    experiment: str = ""
    """Default: the model's name."""
    register_as: str = ""
    """A run that ships becomes a version of this registered model; empty: of none."""
    alias: str = "shipped"
    """The registry's name for the version that ships."""

    def places(self) -> dict[str, str]:
        """Tracker → where it tells."""
        return ({"mlflow": self.mlflow} if self.mlflow is not None else {}) | self.plugins
