"""``gate.baseline``: what is refused before anything runs, and what the next version ships against."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeship import pipeline
from edgeship.bundle.write import zip_bundle
from edgeship.config_file import load
from edgeship.decide.runs import judge_again
from edgeship.errors import BundleError, ConfigError, EdgeshipError
from edgeship.pipeline.checks import problems
from tiny_project import picture, project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a first version."""
    folder = tmp_path_factory.mktemp("first")
    finished = pipeline.ship(load(project(folder)), folder / "out")
    assert finished.result.verdict == "SHIP"
    return folder / "out" / "bundle"


def next_version(folder: Path, released: Path) -> Path:
    """The config of a second version on the same images, beside the first one's bundle."""
    config = project(folder)
    shutil.copytree(released, folder / "last.bundle")
    config.write_text(config.read_text().replace("[gate]", '[gate]\nbaseline = "last.bundle"'))
    return config


def other_images(folder: Path) -> None:
    (folder / "val" / "red" / "000.png").unlink()
    picture(folder / "val" / "red" / "new.png", 0, 7)
    picture(folder / "val" / "red" / "001.png", 0, 8)


def swapped_classes(folder: Path) -> None:
    config = folder / "edgeship.toml"
    config.write_text(config.read_text().replace('["red", "green", "blue"]', '["red", "blue", "green"]'))


def changed_file(folder: Path) -> None:
    records = folder / "last.bundle" / "evidence" / "candidate" / "records.npz"
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 1
    records.write_bytes(content)


def own_folder(folder: Path) -> None:
    config = folder / "edgeship.toml"
    config.write_text(config.read_text().replace("last.bundle", "out/bundle"))
    shutil.move(folder / "last.bundle", folder / "out" / "bundle")


def nowhere(folder: Path) -> None:
    shutil.rmtree(folder / "last.bundle")


def no_bundle(folder: Path) -> None:
    nowhere(folder)
    (folder / "last.bundle").mkdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_images, ("was evaluated on other images: of its 72", "1 no longer here (red/000.png)",
                        "1 changed (red/001.png)", "1 new (red/new.png)", "evaluate on those images, or run ship")),
        (swapped_classes, ("other classes: class 1 is 'green' there and 'blue' here", "evaluation.classes")),
        (changed_file, ("'evidence/candidate/records.npz'", "has changed")),
        (own_folder, ("this run's own folder", "copy the released bundle")),
        (nowhere, ("nothing is at", "fix gate.baseline")),
        (no_bundle, ("manifest.json is missing",)),
    ],
)  # fmt: skip
def test_a_release_that_cannot_be_compared_with_is_refused_first(
    tmp_path: Path, released: Path, change: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    config = next_version(tmp_path, released)
    (tmp_path / "out").mkdir()
    change(tmp_path)
    with pytest.raises(EdgeshipError) as refused:
        pipeline.check(load(config), tmp_path / "out")
    for word in words:
        assert word in str(refused.value)
    assert refused.value.exit_code == 2
    assert not list((tmp_path / "out").glob("stages/*"))


def test_another_task_is_refused(tmp_path: Path, released: Path) -> None:
    config = next_version(tmp_path, released)
    (tmp_path / "own.py").write_text("def score(outputs, target):\n    return {'own': 1.0}\n")
    config.write_text(
        config.read_text().replace('images = "val/"', 'images = "val/"\ntask = "own:score"').replace("top1", "own")
    )
    (problem,) = problems(load(config))
    assert "was evaluated as classification" in str(problem)


def test_the_same_images_are_no_problem_as_a_folder_and_as_a_zip(tmp_path: Path, released: Path) -> None:
    config = next_version(tmp_path, released)
    assert problems(load(config), tmp_path / "out") == []
    planned = [item.name for item in pipeline.plan(load(config), tmp_path / "out")]
    assert "release" in planned
    assert "release" not in [item.name for item in pipeline.plan(load(project(tmp_path / "plain")), tmp_path / "out")]
    zip_bundle(released, tmp_path / "last.zip")
    config.write_text(config.read_text().replace("last.bundle", "last.zip"))
    assert problems(load(config), tmp_path / "out") == []


def test_other_labels_are_refused_before_a_candidate_is_built(tmp_path: Path, released: Path) -> None:
    """The same files under the same names, labelled by a table that says otherwise."""
    config = next_version(tmp_path, released)
    rows = [f"{path.relative_to(tmp_path / 'val')},{path.parent.name}" for path in sorted(tmp_path.glob("val/*/*"))]
    rows[0] = rows[0].replace(",blue", ",red")
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    config.write_text(config.read_text().replace('images = "val/"', 'images = "val/"\nlabels = "labels.csv"'))
    with pytest.raises(EdgeshipError, match=r"the release .*different labels") as refused:
        pipeline.ship(load(config), tmp_path / "out")
    assert (refused.value.stage, refused.value.exit_code) == ("release", 2)
    assert not list((tmp_path / "out" / "stages").glob("trial-default-int8-*"))


def test_a_finished_run_is_judged_against_a_release_that_other_rules_name(tmp_path: Path, released: Path) -> None:
    """Here its own bundle: the engine that shipped is the release, the other one is compared with it."""
    zip_bundle(released, tmp_path / "last.zip")
    gate = load(released.parents[1] / "edgeship.toml").gate.model_copy(update={"baseline": tmp_path / "last.zip"})
    (decision,) = judge_again(released.parent, gate)
    rules = [rule for item in decision.judged for rule in item.rules if rule.name == "baseline.top1"]
    assert [(rule.outcome, rule.measured) for rule in rules] == [("pass", 0.0)] * 2
    (tmp_path / "last.zip").write_bytes(b"PK")
    with pytest.raises(BundleError):
        judge_again(released.parent, gate)


def test_a_baseline_without_a_limit_or_images_is_refused_as_the_config_is_read(tmp_path: Path) -> None:
    config = project(tmp_path)
    text = config.read_text().replace("[gate]", '[gate]\nbaseline = "last.bundle"')
    text = text.replace("max_drop = { top1 = 0.5 }\n", "").replace('images = "val/"\n', "")
    config.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(config)
    assert "evaluation.images: missing, and gate.baseline" in str(refused.value)
    assert "gate.baseline: no limit says how much may be lost" in str(refused.value)
