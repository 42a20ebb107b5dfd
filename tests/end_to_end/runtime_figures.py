"""What the vehicle's runtime is worth on the images of an evaluation: by its answers, and as the bundle promises."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import edgeship
from edgeship import metrics
from edgeship.config_file import load
from edgeship.data.datasets import open_dataset
from edgeship.data.preprocess import Geometry
from edgeship.decode.predictions import Several
from edgeship.metrics.several import joined


def of_bundle(config: Path, bundle: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of what ``edgeship.load(bundle)`` answers on the evaluation images of a config, one by one, and those in
    the bundle's manifest."""
    settings = load(config).evaluation
    dataset = open_dataset(settings)
    parts = dict(dataset.parts) or {"": dataset}
    kept = {
        name: metrics.get(part.task).collector(part.classes, settings.tasks.get(name, settings))
        for name, part in parts.items()
    }
    with edgeship.load(bundle) as model:
        for item in dataset.items:
            picture = item.picture()
            assert isinstance(picture, Path)
            with Image.open(picture) as opened:
                width, height = opened.size
            target = item.target(Geometry(height, width, height, width)) if callable(item.target) else item.target
            found = model(picture)
            for name, collector in kept.items():
                if isinstance(found, Several):
                    collector.add(found[name], target[name])
                else:
                    collector.add(found, target)
        promised = dict(model.manifest.metrics)
    records = {name: collector.records() for name, collector in kept.items()}
    whole = joined(records) if dataset.parts else records[""]
    return metrics.task_of(whole).summarize(whole).metrics, promised
