"""The bundles of the targets that ship, and the run's own evidence in them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeship.bundle.manifest import STATEMENT, CalibrationProvenance
from edgeship.bundle.of_run import BUNDLES, Written, content_digest, stands
from edgeship.bundle.write import Contents
from edgeship.bundle.write import write as write_bundle
from edgeship.config import Config
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import write_report, write_summary
from edgeship.errors import ArtifactError
from edgeship.files import sha256_json, storage_errors, write_json
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.candidates import needs_calibration
from edgeship.pipeline.decide import RESULT, RESULT_FILE, bundle_places, decision_of, summarize
from edgeship.pipeline.environment import PACKAGES
from edgeship.pipeline.origins import ranges_stage
from edgeship.pipeline.prepare import EXPORT
from edgeship.pipeline.provenance import Shipped, bill_of_materials, statement
from edgeship.pipeline.release import release_folder
from edgeship.pipeline.stages import Run, Stage, Step, dump, source_digest, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE
from edgeship.results import Artifact, Result, RunResult, read, trial_folder, write
from edgeship.results.seal import read_seal


def write_bundles(run: Run) -> None:
    """A bundle for each target that ships, and what was written; those of an earlier verdict are removed.

    One that stands there whole, made of the same, is left as it is.
    """
    places, before = bundle_places(run), _written(run.folder)
    made, made_of = {}, {}
    for trials in run.targets:
        if trials.name not in places:
            continue
        place, wanted = places[trials.name], contents(run, trials)
        name, digest = place.name, _ingredients(run, wanted)
        same = before.made_of.get(name) == digest and stands(place, before.bundles.get(name, ""), run.hasher.file)
        made[name] = before.bundles[name] if same else content_digest(write_bundle(wanted, place))
        made_of[name] = digest
    write(Written(bundles=made, made_of=made_of), run.folder / BUNDLES)
    remove_bundles(run.folder, set(places.values()))


def _written(folder: Path) -> Written:
    """What the run before noted of its bundles; nothing where it did not end, or the note is damaged."""
    try:
        return read(Written, folder / BUNDLES)
    except ArtifactError:
        return Written(bundles={})


def _ingredients(run: Run, wanted: Contents) -> str:
    """A hash of all that goes into a bundle, by the seals and hashes of its sources."""
    cache, release = wanted.cache, wanted.released
    beside = [cache, cache.with_name(f"{cache.name}.json")] if cache is not None else []
    plugins = trial_folder.read_spec(wanted.trial).target.plugins
    files = {
        "cache": beside,
        "plugins": plugins,
        "evidence": wanted.evidence.values(),
        "licences": wanted.licences.values(),
    }
    parts = {
        "seals": [read_seal(folder).digest for folder in (wanted.trial, wanted.reference, release) if folder],
        "files": {
            kind: [[path.name, run.hasher.file(path)] for path in sorted(paths) if path.is_file()]
            for kind, paths in files.items()
        },
        "said": [dump(wanted.decision), dump(wanted.gate), dump(wanted.calibration), dict(wanted.prepared)],
        "name": wanted.name,
        "edgeship": source_digest(),
    }
    return sha256_json(parts)


def contents(run: Run, trials: TargetTrials) -> Contents:
    """What goes into the bundle of a target that ships."""
    decision = decision_of(run, trials)
    candidate, _, folder = next(item for item in trials.trials if item[0].name == decision.chosen)
    calibrated = run.result(CALIBRATE) if needs_calibration(candidate) else None
    return Contents(
        trial=folder,
        decision=decision,
        name=run.config.title,
        reference=run.result(REFERENCE).folders()[0],
        gate=run.config.gate,
        released=release_folder(run),
        calibration=CalibrationProvenance.of(calibrated) if calibrated is not None else None,
        cache=run.path(ranges_stage(candidate, trials), calibrated.cache.path) if calibrated is not None else None,
        prepared={**versions(*PACKAGES), "exporter": run.result(EXPORT).exporter},
        evidence={name: run.path(EVIDENCE, name) for name in EVIDENCE_FILES},
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


HOST = "HOST"
"""Stands for the name of a target's machine."""
BOM, PROVENANCE = "bom.cdx.json", STATEMENT.removeprefix("evidence/")
EVIDENCE_FILES = (RESULT_FILE, "report.html", "summary.md", BOM, PROVENANCE)


class Evidence(Result):
    """What a run wrote of its verdict when it first came to it."""

    files: tuple[Artifact, ...]


def evidence_key(run: Run) -> Any:
    """All that the verdict rests on; not when the run was, nor how long it took or what it reused."""
    return {
        "result": run.result(RESULT).model_dump(mode="json", exclude={"stages", "finished"}),
        "trials": [read_seal(folder).digest for trials in run.targets for folder in trials.folders()],
    }


def keep_evidence(run: Run, folder: Path) -> Evidence:
    """Write result and report as they may leave: equal runs then give equal bundles, with the times of the first."""
    told = portable(run.result(RESULT), run.config)
    finished = FinishedRun(told, run.folder, sealed=True)
    write(without_folders(told), folder / RESULT_FILE)
    write_report(finished, folder / "report.html")
    write_summary(finished, folder / "summary.md")
    shipped = shipped_engines(run)
    write_json(folder / BOM, bill_of_materials(told, shipped))
    write_json(folder / PROVENANCE, statement(told, shipped))
    return Evidence(files=tuple(Artifact.of(folder / name, folder) for name in EVIDENCE_FILES))


def without_folders(result: RunResult) -> RunResult:
    """The result as it stands in a bundle, where none of the run's folders is: their names are left empty.

    A folder is named after the key of its stage, which holds the places of images and what was measured before it.
    """
    trials = tuple(trial.model_copy(update={"folder": ""}) for trial in result.trials)
    stages = tuple(stage.model_copy(update={"folder": ""}) for stage in result.stages)
    reference = result.reference.model_copy(update={"folder": ""})
    return result.model_copy(update={"reference": reference, "trials": trials, "stages": stages})


def shipped_engines(run: Run) -> tuple[Shipped, ...]:
    """The engines of the targets that ship."""
    found = []
    for trials in run.targets:
        decision = decision_of(run, trials)
        if decision.verdict != "SHIP":
            continue
        candidate, trial, folder = next(item for item in trials.trials if item[0].name == decision.chosen)
        judged = next(item for item in decision.judged if item.candidate == candidate.name)
        summary = summarize(run, trials, candidate.name, trial, folder, judged)
        found.append(Shipped(trials.name, summary, trial))
    return tuple(found)


def portable(result: RunResult, config: Config) -> RunResult:
    """The result without what belongs to one workstation: paths outside the config's folder keep their last part,
    machines of targets and the user's folders are not named."""
    names = {str(config.root): ".", str(Path.home()): "~"}
    names |= {path: Path(path).name for path in _absolute(config.model_dump(mode="json")) if path != "/"}
    hosts = {target.host for target in config.all_targets().values() if target.host is not None}
    told = _without(result.model_dump(mode="json"), names, hosts)
    return RunResult.model_validate_json(json.dumps(told))


def _without(value: Any, names: dict[str, str], hosts: set[str], key: str = "") -> Any:
    """A JSON value whose texts name neither the paths of ``names`` nor the hosts; its keys stay.

    A host may be called as anything else is (``device``, ``cpu``): a plain word is one only where it stands as one.
    """
    if isinstance(value, dict):
        return {name: _without(item, names, hosts, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(item, names, hosts, key) for item in value]
    if not isinstance(value, str):
        return value
    if key == "host" and value in hosts:
        return HOST
    for name in sorted(names, key=len, reverse=True):
        value = value.replace(name, names[name])
    for host in sorted(hosts, key=len, reverse=True):
        plain = re.fullmatch(r"[\w-]+", host) is not None
        pattern = rf"""(?<=host = ["']){re.escape(host)}(?=["'])""" if plain else re.escape(host)
        value = re.sub(pattern, HOST, value)
    return value


def _absolute(value: Any) -> Iterator[str]:
    """Every absolute path among the values of a config."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _absolute(item)
    elif isinstance(value, str) and value.startswith("/"):
        yield value


def ships(run: Run) -> bool:
    """Whether there is a bundle to write."""
    return bool(bundle_places(run))


EVIDENCE = Stage("evidence", Evidence, evidence_key, keep_evidence, needed=ships, file="evidence.json")
BUNDLE = Step("bundle", write_bundles)
