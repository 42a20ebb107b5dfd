"""The bundles of the targets that ship."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeship.bundle.manifest import CalibrationProvenance
from edgeship.bundle.write import Contents, write
from edgeship.files import storage_errors
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.candidates import needs_calibration
from edgeship.pipeline.decide import bundle_places, decision_of, draft, title
from edgeship.pipeline.environment import PACKAGES
from edgeship.pipeline.prepare import EXPORT
from edgeship.pipeline.stages import Run, Step, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE


def write_bundles(run: Run) -> None:
    """A bundle for each target that ships; those of an earlier verdict are removed."""
    places = bundle_places(run)
    for trials in run.targets:
        if trials.name in places:
            write(contents(run, trials), places[trials.name])
    remove_bundles(run.folder, set(places.values()))


def contents(run: Run, trials: TargetTrials) -> Contents:
    """What goes into the bundle of a target that ships."""
    decision = decision_of(run, trials)
    candidate, _, folder = next(item for item in trials.trials if item[0].name == decision.chosen)
    calibrated = run.result(CALIBRATE) if needs_calibration(candidate) else None
    return Contents(
        trial=folder,
        decision=decision,
        name=title(run),
        reference=run.result(REFERENCE).folders()[0],
        gate=run.config.gate,
        calibration=CalibrationProvenance.of(calibrated) if calibrated is not None else None,
        cache=run.path(CALIBRATE, calibrated.cache.path) if calibrated is not None else None,
        prepared={**versions(*PACKAGES), "exporter": run.result(EXPORT).exporter},
        evidence={
            "report.html": run.folder / "report.html",
            "result.json": draft(run),
            "summary.md": run.folder / "summary.md",
        },
        licences=_licences(run),
    )


def remove_bundles(folder: Path, written: set[Path]) -> None:
    """Remove bundles of an earlier verdict, such as that of a target which the config names no more."""
    for manifest in (folder / "bundle" / "manifest.json", *folder.glob("bundle-*/manifest.json")):
        if manifest.is_file() and manifest.parent not in written:
            with storage_errors(manifest.parent):
                shutil.rmtree(manifest.parent)


def _licences(run: Run) -> dict[str, Path]:
    """Licence texts that stand beside the config."""
    return {path.name: path for path in sorted(run.config.root.glob("LICEN[CS]E*")) if path.is_file()}


BUNDLE = Step("bundle", write_bundles)
