"""A network of two heads, boxes and lanes: one pass, one verdict, one report; and the vehicle's prediction of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from projects import code_of
from runtime_figures import of_bundle

import edgeship
from edgeship import pipeline
from edgeship.config import Benchmark
from edgeship.config_file import load
from edgeship.decide import loaded_trial
from edgeship.decide.finished_run import FinishedRun
from edgeship.decode.predictions import Detection, Segmentation, Several
from edgeship.errors import UserInputError
from edgeship.pipeline.changes import Pictures, changed_images
from edgeship.pipeline.rebuild import RebuildOptions, rebuild
from edgeship.pipeline.stages import Run
from edgeship.results import trial_folder
from edgeship.targets.sending import plan_of
from over_ssh import evaluated_on_both
from sshd_support import Device
from two_heads import project

pytestmark = pytest.mark.slow
QUICK = Benchmark(warmup_s=0.05, min_s=0.1, max_s=0.5, min_samples=20, precision=0.9)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("heads")
    return pipeline.ship(load(project(folder)), folder / "run")


def test_each_task_has_rules_by_its_name(shipped: FinishedRun) -> None:
    assert shipped.result.verdict == "SHIP"
    metrics = shipped.result.reference.metrics
    assert (metrics["boxes.map50"], metrics["lanes.miou"]) == (1.0, 1.0)
    for judged in shipped.result.decisions[0].judged:
        names = [rule.name for rule in judged.rules]
        assert len(names) == len(set(names))
        assert {"max_drop.boxes.map50", "max_drop.lanes.miou"} <= set(names)
        assert {"critical.boxes.cone", "critical.lanes.lane"} <= set(names)
        assert names.count("latency_p99_ms") == 1
        assert judged.drop["boxes.map50"] <= 0.5
        assert "lanes.lane" in judged.class_drop["lanes.iou"]


def test_the_images_are_evaluated_once(shipped: FinishedRun) -> None:
    folder = shipped.folder / shipped.result.reference.folder
    evaluation = trial_folder.read_trial(folder).evaluation
    assert evaluation is not None
    assert evaluation.images == 12
    with np.load(folder / "records.npz") as records:
        assert str(records["task"]) == "boxes=detection+lanes=segmentation"
        assert len(records["ids"]) == 12


def test_the_report_has_a_section_for_each_task(shipped: FinishedRun) -> None:
    page = (shipped.folder / "report.html").read_text()
    for words in ("boxes.map50", "lanes.miou", "boxes.cone", "lanes.lane"):
        assert words in page


def test_each_task_shows_its_own_images(shipped: FinishedRun, tmp_path: Path) -> None:
    """Boxes that one of the two lost, and a mask that moved: in the records, since both engines answer alike."""
    base, other = (
        loaded_trial.load(
            shipped.folder / next(item.folder for item in shipped.result.trials if item.candidate == name)
        )
        for name in ("fp32", "int8")
    )
    records = {name: array.copy() for name, array in other.records.items()}
    records["boxes:det_score"][[2, 5]] = 0.1
    records["lanes:grid"][7] = 1
    config = load(shipped.folder.parent / "edgeship.toml")
    kept = Pictures(tmp_path, config.preprocess)
    found = changed_images(Run(config, shipped.folder), base, replace(other, records=records), kept)
    assert [(item.task, item.name) for item in found] == [("boxes", "02.png"), ("boxes", "05.png"), ("lanes", "07.png")]
    assert [len(item.truth) for item in found] == [1, 1, 0]
    assert [item.answer.mask is not None for item in found] == [False, False, True]
    assert [box.label for box in found[0].answer.boxes] == ["cone"]


def test_the_vehicle_gets_both_predictions(shipped: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the code of the how-to page."""
    monkeypatch.chdir(shipped.folder)
    names = {"edgeship": edgeship, "image": shipped.folder.parent / "val" / "03.png"}
    exec(code_of("several-tasks"), names)
    found = names["found"]
    assert isinstance(found, Several)
    boxes, lanes = found["boxes"], found["lanes"]
    assert isinstance(boxes, Detection)
    assert isinstance(lanes, Segmentation)
    assert boxes.names == ["cone"]
    assert lanes.classes == ("road", "lane")
    assert 0 < (lanes.mask == 1).mean() < 0.5


def test_the_vehicle_gives_the_figures_of_every_task(shipped: FinishedRun) -> None:
    answered, promised = of_bundle(shipped.folder.parent / "edgeship.toml", shipped.folder / "bundle")
    assert answered == pytest.approx(promised, abs=1e-6)
    assert {"boxes.map", "lanes.miou"} <= set(answered)


def test_a_device_gets_the_labels_of_every_task(shipped: FinishedRun) -> None:
    plan = plan_of(shipped.folder / shipped.result.reference.folder)
    assert {"images", "boxes.labels", "lanes.labels"} <= set(plan.places)
    assert str(Path(shipped.folder).parent) not in (shipped.folder / "bundle" / "manifest.json").read_text()


def test_a_bundle_of_several_tasks_is_judged_again_with_the_labels_of_each(
    shipped: FinishedRun, tmp_path: Path
) -> None:
    folder, bundle = shipped.folder.parent, shipped.folder / "bundle"
    boxes, lanes = f"boxes={folder / 'boxes.json'}", f"lanes={folder / 'masks'}"
    given = RebuildOptions(images=folder / "val", labels=(boxes, lanes), benchmark=QUICK)
    done = rebuild(bundle, tmp_path / "again", given)
    rules = {rule.name: rule for judged in done.decision.judged for rule in judged.rules}
    assert rules["max_drop.boxes.map50"].outcome == rules["max_drop.lanes.miou"].outcome == "pass", done.decision
    assert done.trials[0].evaluation is not None
    assert done.trials[0].evaluation.metrics["boxes.map50"] == pytest.approx(1.0)
    for labels in ((), (boxes,), (str(folder / "boxes.json"),), (boxes, boxes)):
        with pytest.raises(UserInputError, match="judged on 2 tasks: boxes, lanes; labels are given of") as refused:
            rebuild(bundle, tmp_path / "no", RebuildOptions(images=folder / "val", labels=labels))
        assert refused.value.do == "--labels boxes=PLACE --labels lanes=PLACE"


def test_a_trial_over_ssh_gives_the_figures_of_every_task(shipped: FinishedRun, host: Device, tmp_path: Path) -> None:
    here, there = evaluated_on_both(shipped, host, tmp_path)
    assert there.metrics == here.metrics
    assert {"boxes.map50", "lanes.miou"} <= set(there.metrics)
