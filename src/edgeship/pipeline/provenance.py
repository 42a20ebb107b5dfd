"""What a bundle was made from, in two standard forms for other tools: an in-toto statement with a SLSA provenance,
and a CycloneDX ML-BOM. Both are made from the run's result alone, so equal runs give equal files.

in-toto attestation framework 1.0 (https://in-toto.io/Statement/v1), SLSA 1.0 (https://slsa.dev/provenance/v1),
CycloneDX 1.6 (ECMA-424).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from edgeship.results import RunResult, Trial, TrialSummary

BUILD_TYPE = "urn:edgeship:ship:v1"
"""What kind of build it was: the whole way of ``edgeship ship`` by one config."""
OF_A_FILE = frozenset(("model", "weights", "config"))
"""Digests of a run that are those of one file; the others are of many, in an order: SHA-256 of their listing."""
LISTING = "edgeshipListingSha256"


@dataclass(frozen=True)
class Shipped:
    """An engine that ships: its target, its summary in the run's result, its whole trial."""

    target: str
    summary: TrialSummary
    trial: Trial


def statement(result: RunResult, shipped: tuple[Shipped, ...]) -> dict[str, Any]:
    """An in-toto statement about the engines that ship, as JSON values."""
    tools = {**result.environment.get("packages", {}), "edgeship": result.edgeship}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": _name(item), "digest": {"sha256": _engine(item)}} for item in shipped],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "config": result.config_file,
                    "model": result.title,
                    "version": result.lineage.version,
                },
                "internalParameters": {
                    "candidates": {item.target: item.summary.candidate for item in shipped},
                    "verdicts": {decision.target_name: decision.verdict for decision in result.decisions},
                },
                "resolvedDependencies": [
                    *({"name": name, "digest": _digest(name, value)} for name, value in result.lineage.digests.items()),
                    *_source(result),
                    *({"name": name, "uri": _package(name, version)} for name, version in sorted(tools.items())),
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:edgeship", "version": {"edgeship": result.edgeship}},
                "metadata": {"finishedOn": _moment(result)},
            },
        },
    }


def bill_of_materials(result: RunResult, shipped: tuple[Shipped, ...]) -> dict[str, Any]:
    """A CycloneDX ML-BOM of the engines that ship, as JSON values."""
    data = [_data(name, value) for name, value in result.lineage.digests.items() if name not in OF_A_FILE]
    files = [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_hash(value)]}
        for name, value in result.lineage.digests.items()
        if name in OF_A_FILE
    ]
    packages = [
        {"type": "library", "bom-ref": _package(name, version), "name": name, "version": version,
         "purl": _package(name, version)}
        for name, version in sorted(result.environment.get("packages", {}).items())
    ]  # fmt: skip
    engines = [_engine_component(result, item) for item in shipped]
    parts = [*data, *files, *packages]
    whole = {"type": "application", "bom-ref": "bundle", "name": result.title, "version": result.lineage.version or "0"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(_engine(item) for item in shipped))}",
        "version": 1,
        "metadata": {
            "timestamp": _moment(result),
            "tools": {"components": [{"type": "application", "name": "edgeship", "version": result.edgeship}]},
            "component": whole,
        },
        "components": [*engines, *parts],
        "dependencies": [
            {"ref": "bundle", "dependsOn": [item["bom-ref"] for item in engines]},
            *({"ref": item["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]} for item in engines),
        ],
    }


def _engine_component(result: RunResult, item: Shipped) -> dict[str, Any]:
    """The engine as a machine-learning model: what it takes and gives, what it reached, under which verdict."""
    build, evaluation = item.trial.build, item.trial.evaluation
    assert build is not None
    card: dict[str, Any] = {
        "modelParameters": {
            "inputs": [{"format": f"{info.name}: {info.dtype} {list(info.shape)}"} for info in build.inputs],
            "outputs": [{"format": f"{info.name}: {info.dtype} {list(info.shape)}"} for info in build.outputs],
        }
    }
    data = [name for name in result.lineage.digests if name not in OF_A_FILE]
    if data:
        card["modelParameters"]["datasets"] = [{"ref": f"data:{name}"} for name in data]
    if evaluation is not None:
        card["modelParameters"]["task"] = evaluation.task
        card["quantitativeAnalysis"] = {
            "performanceMetrics": [
                {"type": name, "value": f"{value:.6g}", "slice": f"{evaluation.images} evaluation images"}
                for name, value in evaluation.metrics.items()
            ]
        }
    decision = next(decision for decision in result.decisions if decision.target_name == item.target)
    facts = {"verdict": decision.verdict, "precision": item.summary.precision, "device": item.summary.device,
             "engine": f"{build.identity.engine} {build.identity.version}", "sentence": decision.sentence}  # fmt: skip
    return {
        "type": "machine-learning-model",
        "bom-ref": f"engine:{item.target}",
        "name": _name(item),
        "version": result.lineage.version or "0",
        "hashes": [_hash(_engine(item))],
        "modelCard": card,
        "properties": [{"name": f"edgeship:{name}", "value": value} for name, value in facts.items()],
    }


def _data(name: str, value: str) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": f"data:{name}",
        "name": name,
        "data": [{"type": "dataset", "name": name}],
        "properties": [{"name": f"edgeship:{LISTING}", "value": value}],
    }


def _source(result: RunResult) -> list[dict[str, Any]]:
    """The git commit of the config's folder, where it is one."""
    if not result.lineage.commit:
        return []
    return [{"name": "source", "digest": {"gitCommit": result.lineage.commit},
             "annotations": {"changed": result.lineage.changed}}]  # fmt: skip


def _name(item: Shipped) -> str:
    return f"{item.target}/{item.summary.candidate}"


def _engine(item: Shipped) -> str:
    assert item.trial.build is not None
    return item.trial.build.engine.sha256


def _digest(name: str, value: str) -> dict[str, str]:
    return {"sha256" if name in OF_A_FILE else LISTING: value}


def _hash(value: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": value}


def _package(name: str, version: str) -> str:
    """A package URL: https://github.com/package-url/purl-spec."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"


def _moment(result: RunResult) -> str:
    """When the verdict was reached, as RFC 3339 in UTC."""
    return result.finished.replace("+00:00", "Z")
