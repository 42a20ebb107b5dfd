"""The bundle's ML-BOM and provenance, read by the tools of their own standards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementFields

from edgeship.decide.finished_run import open_run
from edgeship.pipeline.provenance import Shipped, bill_of_materials, statement
from made_trials import finished_run, measured

PACKAGES = {"numpy": "2.4.6", "torch": "2.13.0+cpu"}
DIGESTS = {"model": "1" * 64, "weights": "2" * 64, "calibration frames": "3" * 64, "config": "4" * 64}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, tuple[Shipped, ...]]:
    item = measured(ms=2.0)
    run = open_run(finished_run(tmp_path_factory.mktemp("run"), item))
    lineage = run.result.lineage.model_copy(update={"digests": DIGESTS, "commit": "a" * 40, "version": "1.2"})
    result = run.result.model_copy(update={"lineage": lineage, "environment": {"packages": PACKAGES}})
    assert result.verdict == "SHIP"
    return result, (Shipped("default", result.trials[0], item.trial),)


def faults(told: dict[str, Any]) -> object:
    """What CycloneDX's own validator says against a bill of materials; None: nothing."""
    # Here, as importing its grammars of IRIs takes seconds, and every run of any test imports this module.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(told))


def test_the_bill_of_materials_follows_the_schema_of_cyclonedx(made: tuple[Any, tuple[Shipped, ...]]) -> None:
    told = bill_of_materials(*made)
    assert faults(told) is None
    engine = told["components"][0]
    assert engine["type"] == "machine-learning-model"
    assert engine["hashes"] == [{"alg": "SHA-256", "content": made[1][0].trial.build.engine.sha256}]
    metrics = {
        item["type"]: item["value"] for item in engine["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    assert metrics["top1"] == "1"
    assert engine["modelCard"]["modelParameters"]["datasets"] == [{"ref": "data:calibration frames"}]
    names = {item["bom-ref"] for item in told["components"]}
    assert {"file:weights", "data:calibration frames", "pkg:pypi/torch@2.13.0%2Bcpu"} <= names
    assert set(told["dependencies"][1]["dependsOn"]) == names - {"engine:default"}


def test_a_wrong_bill_of_materials_is_seen(made: tuple[Any, tuple[Shipped, ...]]) -> None:
    told = bill_of_materials(*made)
    told["components"][0]["hashes"] = [{"alg": "SHA-256", "content": "short"}]
    assert faults(told) is not None


def test_the_provenance_is_an_in_toto_statement_of_slsa(made: tuple[Any, tuple[Shipped, ...]]) -> None:
    told = statement(*made)
    Statement.copy_from_pb(json_format.ParseDict(told, StatementFields())).validate()
    predicate = json_format.ParseDict(told["predicate"], Provenance())  # refuses a field that the predicate lacks
    for part in predicate.build_definition.resolved_dependencies:
        ResourceDescriptor.copy_from_pb(part).validate()
    assert told["subject"][0]["digest"] == {"sha256": made[1][0].trial.build.engine.sha256}
    known = {item["name"]: item for item in told["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert known["weights"]["digest"] == {"sha256": "2" * 64}
    assert known["calibration frames"]["digest"] == {"edgeshipListingSha256": "3" * 64}
    assert known["source"]["digest"] == {"gitCommit": "a" * 40}
    assert known["torch"]["uri"] == "pkg:pypi/torch@2.13.0%2Bcpu"


def test_equal_results_give_equal_files(made: tuple[Any, tuple[Shipped, ...]]) -> None:
    for make in (bill_of_materials, statement):
        assert json.dumps(make(*made)) == json.dumps(make(*made))
