"""What a run leaves behind of an earlier one's bundles."""

from __future__ import annotations

from pathlib import Path

import made_trials
from edgeship.config import Calibration, Config, Evaluation, Model, Target
from edgeship.decide.finished_run import open_run
from edgeship.pipeline.bundles import portable, remove_bundles


def test_bundles_of_an_earlier_verdict_are_removed(tmp_path: Path) -> None:
    for name in ("bundle", "bundle-orin", "bundle-desk", "bundles of mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "bundle-notes").mkdir()
    remove_bundles(tmp_path, {tmp_path / "bundle-orin"})
    assert {path.name for path in tmp_path.iterdir()} == {"bundle-orin", "bundle-notes", "bundles of mine"}


def test_what_leaves_names_neither_a_machine_nor_a_place_of_the_workstation(tmp_path: Path) -> None:
    """The report that is drawn from it cannot either."""
    root = tmp_path / "project"
    run = open_run(made_trials.finished_run(tmp_path / "run", made_trials.measured(), made_trials.failed("int8-b")))
    text = f'host = "ann@orin-7"\n[calibration]\nimages = "/data/night drives/calib"\n# see {Path.home()}/notes'
    config = Config(
        model=Model(source="model:build", weights=root / "weights.safetensors"),
        calibration=Calibration(images=Path("/data/night drives/calib")),
        evaluation=Evaluation(images=root / "val"),
        target=Target(host="ann@orin-7"),
        root=root,
    )
    told = run.result.model_copy(
        update={
            "config": config.model_dump(mode="json"),
            "config_text": text,
            "sentence": f"{root}/stages holds it",
        }
    )
    left = portable(told, config)
    for word in (str(root), "/data", "orin-7", "ann@", str(Path.home())):
        assert word not in left.model_dump_json(), word
    assert left.config["calibration"]["images"] == "calib"
    assert left.config["model"]["weights"] == "weights.safetensors"
    assert left.sentence == "./stages holds it"
    assert left.trials == told.trials and left.decisions == told.decisions


def test_a_host_that_is_called_as_a_field_or_a_value_is_changes_neither(tmp_path: Path) -> None:
    run = open_run(made_trials.finished_run(tmp_path / "run", made_trials.measured(), made_trials.failed("int8-b")))
    for host in ("device", "cpu", "fp32"):
        config = Config(model=Model(source="model:build"), target=Target(host=host), root=tmp_path)
        told = run.result.model_copy(
            update={
                "config": config.model_dump(mode="json"),
                "config_text": f'[target]\nhost = "{host}"\ndevice = "cpu"',
            }
        )
        left = portable(told, config)
        assert left.trials == told.trials
        assert left.config["target"]["host"] == "HOST"
        assert left.config["target"]["device"] == "cpu"
        assert left.config_text == '[target]\nhost = "HOST"\ndevice = "cpu"'
