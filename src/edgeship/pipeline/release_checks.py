"""Whether the release that ``gate.baseline`` names can be compared with, before anything long begins."""

from __future__ import annotations

from pathlib import Path

from edgeship.config import Config
from edgeship.data.dataset import Dataset
from edgeship.data.datasets import open_dataset
from edgeship.data.loader import digest_of
from edgeship.decide.released import SHIP_IT_AGAIN, Release, read_release, require_there
from edgeship.errors import BundleError, DataError

EXAMPLES = 3
"""Images that an error names."""


def check_release(config: Config, out: Path | None) -> None:
    """Refuse a ``gate.baseline`` that the run could not be compared with.

    Args:
        config: The config.
        out: The run's work folder, whose bundle is replaced when the run ships; None: not known.

    Raises:
        BundleError: Not a bundle, without an evaluation, or the run's own.
        DataError: Its evaluation was another task, of other classes or on other images.
    """
    named = Release.of(config)
    if named is None or config.evaluation.images is None:
        return
    if named.bundle is not None:
        _require_elsewhere(named.bundle, out)
    release, path = read_release(named), named.named
    evaluation = release.trial.evaluation
    if evaluation is not None and evaluation.task != config.evaluation.task:
        raise DataError(
            f"gate.baseline: {path} was evaluated as {evaluation.task}, this config says {config.evaluation.task}",
            do="name the release of this model",
        )
    dataset = open_dataset(config.evaluation)
    classes = tuple(str(name) for name in release.records.get("classes", ()))
    if not dataset.numbered and dataset.classes and classes != dataset.classes:
        raise DataError(
            f"gate.baseline: {path} was evaluated with other classes: {_first_difference(classes, dataset.classes)}",
            expected="the same names in the same order",
            do=f"fix evaluation.classes, or {SHIP_IT_AGAIN}",
        )
    before = dict(zip(release.records["ids"].tolist(), release.records["digests"].tolist(), strict=False))
    _require_same_images(path, before, dataset, config.evaluation.allow_corrupt)


def _require_elsewhere(path: Path, out: Path | None) -> None:
    """Refuse a bundle that is not there, or that the run would replace."""
    require_there(path)
    if out is not None and path.resolve().is_relative_to(out.resolve()):
        raise BundleError(
            f"gate.baseline: {path} is in this run's own folder, and ship replaces the bundle there",
            do="copy the released bundle to a place of its own, or name an entry of the history",
        )


def _first_difference(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    for number, (one, other) in enumerate(zip(theirs, ours, strict=False)):
        if one != other:
            return f"class {number} is {one!r} there and {other!r} here"
    return f"{len(theirs)} there and {len(ours)} here"


def _require_same_images(path: Path | str, before: dict[str, str], dataset: Dataset, allow_corrupt: int) -> None:
    """Compare the images with those of the recorded evaluation; as many as may be corrupt may be missing there."""
    changed, new, seen = [], [], set()
    for item in dataset.items:
        seen.add(item.id)
        if item.id not in before:
            new.append(item.id)
            continue
        try:
            digest = digest_of(item.picture())
        except OSError:
            digest = ""
        if digest != before[item.id]:
            changed.append(item.id)
    gone = [name for name in before if name not in seen]
    parts = [(gone, "no longer here"), (changed, "changed"), (new if len(new) > allow_corrupt else [], "new")]
    said = [f"{len(names)} {word} ({', '.join(names[:EXAMPLES])})" for names, word in parts if names]
    if said:
        raise DataError(
            f"gate.baseline: {path} was evaluated on other images: of its {len(before)}, {'; '.join(said)}",
            expected="the images of its own evaluation, so that each is compared with itself",
            do=f"evaluate on those images, or {SHIP_IT_AGAIN}",
        )
