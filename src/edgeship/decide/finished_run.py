"""A finished run, read from its folder: ``result.json`` and the stages and trials that it names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from edgeship.config import Gate
from edgeship.errors import ArtifactError
from edgeship.results import (
    SCHEMA_VERSION,
    Baselines,
    Calibrated,
    Changes,
    EarlierRun,
    EarlierRuns,
    Exported,
    Parity,
    Preflight,
    Quantized,
    Repaired,
    Result,
    RunResult,
    Slimmed,
    Trained,
    Trial,
    TrialSummary,
    read,
    trial_folder,
)
from edgeship.results.seal import require_sealed

R = TypeVar("R", bound=Result)
EARLIER = "earlier.json"
"""What the history knew before this run; sealed with result.json where there is any."""


@dataclass(frozen=True)
class TrialFolder:
    """A trial and the folder that holds its arrays."""

    trial: Trial
    folder: Path


@dataclass(frozen=True)
class FinishedRun:
    """``result.json`` and the folder it stands in. What it names there is read when it is asked for.

    Every property raises ArtifactError where a file that ``result.json`` names is absent, changed or malformed.

    Args:
        result: What ``result.json`` holds.
        folder: The work folder.
        earlier: The same model's earlier runs on these targets, from the history, the earliest first.
        notes: What went wrong beside the verdict and does not change it.
        sealed: The seals were checked by whoever made this; else each folder's is, when it is read.
    """

    result: RunResult
    folder: Path
    sealed: bool = False
    notes: tuple[str, ...] = ()
    earlier: tuple[EarlierRun, ...] = ()

    @cached_property
    def gate(self) -> Gate:
        """The rules that the run was judged by."""
        try:
            return Gate.model_validate(self.result.config.get("gate", {}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(("gate", *(str(part) for part in first["loc"])))
            raise ArtifactError(
                f"{self.folder / 'result.json'} holds a config that is not valid: {where}: {first['msg']}",
                do="run edgeship ship again",
            ) from None

    @cached_property
    def reference(self) -> TrialFolder:
        """The FP32 model that every candidate is compared with."""
        return self._trial(self.result.reference)

    @cached_property
    def trials(self) -> tuple[TrialFolder, ...]:
        """Every trial, failed ones too, in the order they were made."""
        return tuple(self._trial(item) for item in self.result.trials)

    @cached_property
    def exported(self) -> Exported | None:
        """What export made."""
        return self.stage("export", Exported)

    @cached_property
    def slimmed(self) -> Slimmed | None:
        """The simplified graph."""
        return self.stage("slim", Slimmed)

    @cached_property
    def preflight(self) -> Preflight | None:
        """What TensorRT's parser said."""
        return self.stage("preflight", Preflight)

    @cached_property
    def parity(self) -> Parity | None:
        """PyTorch against ONNX."""
        return self.stage("parity", Parity)

    @cached_property
    def calibrated(self) -> Calibrated | None:
        """The calibration; None where no candidate needed one."""
        return self.stage("calibrate", Calibrated)

    @cached_property
    def trained(self) -> Trained | None:
        """What quantization-aware training gave; None where the config has no ``[qat]`` table."""
        return self.stage("qat", Trained)

    @cached_property
    def repaired(self) -> dict[str, Repaired]:
        """What the steps of each repaired candidate did, by its name; with the engine style where there are several."""
        names = dict.fromkeys(item.name for item in self.result.stages if item.name.startswith("repair:"))
        parts = {name: name.removeprefix("repair:").rpartition(":") for name in names}
        several = len({style for style, _, _ in parts.values()}) > 1
        found = {}
        for name, (style, _, steps) in parts.items():
            repaired = self.stage(name, Repaired)
            if repaired is not None:
                found[f"int8-{steps}" + (f" for {style}" if several else "")] = repaired
        return found

    def graph(self, summary: TrialSummary) -> Quantized | None:
        """The graph that a candidate was built from; None where that is the simplified one."""
        return self.stage(summary.graph, Quantized) if summary.graph not in ("", "slim") else None

    def changes(self, target: str) -> Changes | None:
        """The images that changed their answer on a target; None where none were looked for."""
        return self.stage(f"changes:{target}", Changes)

    def baselines(self, target: str) -> Baselines | None:
        """PyTorch beside the engines of a target; None where the config names no baseline or it is not on this host."""
        return self.stage(f"baseline:{target}", Baselines)

    def stage(self, name: str, kind: type[R]) -> R | None:
        """A stage's result; None where the run had no such stage."""
        place = self.stage_folder(name)
        return read(kind, place / "result.json") if place is not None else None

    def stage_folder(self, name: str) -> Path | None:
        """What a stage left; None where the run had no such stage."""
        stage = next((item for item in self.result.stages if item.name == name and item.folder), None)
        return self.whole(stage.folder) if stage is not None else None

    def inside(self, name: str) -> Path:
        """A path below the run's folder. Raises ArtifactError for one that leads out of it."""
        place = self.folder / name
        if not place.resolve().is_relative_to(self.folder.resolve()):
            raise ArtifactError(f"result.json names {name!r}", expected="a path inside the run's folder")
        return place

    def whole(self, name: str) -> Path:
        """A finished folder of the run, as it was when it was finished."""
        place = self.inside(name)
        if not self.sealed:
            require_sealed(place)
        return place

    def _trial(self, summary: TrialSummary) -> TrialFolder:
        folder = self.whole(summary.folder)
        return TrialFolder(trial_folder.read_trial(folder), folder)


def open_run(path: Path) -> FinishedRun:
    """A finished run, given its folder or its ``result.json``.

    Raises:
        ArtifactError: Absent, malformed, changed since the run ended, or of another schema version.
    """
    file = path / "result.json" if path.is_dir() else path
    result = read(RunResult, file)
    if result.schema_version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{file} has schema version {result.schema_version}",
            expected=f"schema version {SCHEMA_VERSION}",
            do="run edgeship ship again with this version",
        )
    sealed = require_sealed(file.parent, listed_only=True)
    earlier = read(EarlierRuns, file.parent / EARLIER).runs if EARLIER in sealed.files else ()
    return FinishedRun(result, file.parent, earlier=earlier)
