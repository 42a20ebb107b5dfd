"""Our readers against supervision's on the same files: boxes, classes, polygons' masks, rotated boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import supervision
from PIL import Image

from edgeship.config import Evaluation
from edgeship.data.datasets import open_dataset
from edgeship.data.objects import Boxes
from edgeship.data.preprocess import Geometry
from edgeship.data.regions import from_shape

CLASSES = ("car", "person")
SIZES = {"a": (64, 48), "b": (50, 70), "c": (33, 21)}
"""Width and height of each image; the last one shows nothing."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[tuple[int, np.ndarray]]]]:
    """A folder of images, and of each (class, polygon float64 [4, 2] in pixels), slanted quadrilaterals."""
    root, random = tmp_path_factory.mktemp("scenes"), np.random.default_rng(5)
    (root / "images").mkdir()
    objects: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name, size in SIZES.items():
        Image.new("RGB", size).save(root / "images" / f"{name}.png")
        objects[name] = []
        for _ in range(0 if name == "c" else 5):
            centre, half = random.uniform(0.3, 0.7, 2) * size, random.uniform(0.08, 0.25, 2) * size
            unit = np.array([[-1, -1], [0.9, -0.8], [1, 1], [-0.7, 0.9]])
            objects[name].append((int(random.integers(2)), np.round(centre + half * unit, 2)))
    (root / "data.yaml").write_text(f"names: [{', '.join(CLASSES)}]\n")
    return root, objects


def ours(root: Path, labels: Path, task: str) -> dict[str, Boxes]:
    found = open_dataset(Evaluation(task=task, images=root / "images", labels=labels, classes=CLASSES))
    return {Path(item.id).stem: item.target(Geometry(*SIZES[Path(item.id).stem][::-1], 32, 32)) for item in found.items}


def compare(mine: dict[str, Boxes], theirs: supervision.DetectionDataset, tolerance: float) -> None:
    assert tuple(theirs.classes) == CLASSES
    assert sum(len(found.labels) for found in mine.values()) == 10
    for path, _, other in theirs:
        found = mine[Path(path).stem]
        assert found.boxes == pytest.approx(np.asarray(other.xyxy).reshape(-1, 4), abs=tolerance)
        assert found.labels.tolist() == np.asarray(other.class_id).tolist()


def test_yolo_text(scenes: tuple[Path, dict[str, list[tuple[int, np.ndarray]]]]) -> None:
    root, objects = scenes
    for kind in ("boxes", "polygons"):
        folder = root / kind
        folder.mkdir()
        for name, rows in objects.items():
            lines = []
            for label, points in rows:
                part = points / SIZES[name]
                low, high = part.min(axis=0), part.max(axis=0)
                values = part.ravel() if kind == "polygons" else [*((low + high) / 2), *(high - low)]
                lines.append(" ".join([str(label), *(repr(float(value)) for value in values)]))
            (folder / f"{name}.txt").write_text("\n".join(lines))
    places = {"images_directory_path": str(root / "images"), "data_yaml_path": str(root / "data.yaml")}
    boxes, polygons = root / "boxes", root / "polygons"
    plain = supervision.DetectionDataset.from_yolo(annotations_directory_path=str(boxes), **places)
    compare(ours(root, boxes, "detection"), plain, 1e-4)
    outlined = supervision.DetectionDataset.from_yolo(annotations_directory_path=str(polygons), **places)
    compare(ours(root, polygons, "instances"), outlined, 1e-4)
    slanted = supervision.DetectionDataset.from_yolo(annotations_directory_path=str(polygons), is_obb=True, **places)
    mine = ours(root, polygons, "rotated")
    for path, _, other in slanted:
        corners = mine[Path(path).stem].corners
        if Path(path).stem != "c":
            assert corners == pytest.approx(np.asarray(other.data["xyxyxyxy"], np.float64), abs=1e-4)


def test_pascal_voc(scenes: tuple[Path, dict[str, list[tuple[int, np.ndarray]]]]) -> None:
    root, objects = scenes
    (root / "voc").mkdir()
    for name, rows in objects.items():
        text = ""
        for label, points in rows:
            (x1, y1), (x2, y2) = np.rint(points.min(axis=0)).astype(int) + 1, np.rint(points.max(axis=0)).astype(int)
            sides = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            text += f"<object><name>{CLASSES[label]}</name><bndbox>{sides}</bndbox></object>"
        width, height = SIZES[name]
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        whole = f"<annotation><filename>{name}.png</filename>{size}{text}</annotation>"
        (root / "voc" / f"{name}.xml").write_text(whole)
    theirs = supervision.DetectionDataset.from_pascal_voc(
        images_directory_path=str(root / "images"), annotations_directory_path=str(root / "voc")
    )
    theirs_by_name = {Path(path).stem: other for path, _, other in theirs}
    for name, found in ours(root, root / "voc", "detection").items():
        other = theirs_by_name[name]
        assert found.boxes == pytest.approx(np.asarray(other.xyxy, np.float64).reshape(-1, 4))
        assert [CLASSES[k] for k in found.labels] == [theirs.classes[k] for k in np.asarray(other.class_id)]


def test_coco(scenes: tuple[Path, dict[str, list[tuple[int, np.ndarray]]]]) -> None:
    root, objects = scenes
    images, annotations = [], []
    for number, (name, rows) in enumerate(objects.items()):
        width, height = SIZES[name]
        images.append({"id": number, "file_name": f"{name}.png", "width": width, "height": height})
        for label, points in rows:
            low, size = points.min(axis=0), np.ptp(points, axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0,
                    "bbox": [*low.tolist(), *size.tolist()], "area": float(size.prod()),
                    "segmentation": [points.ravel().tolist()],
                }
            )  # fmt: skip
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco.json").write_text(json.dumps(content))
    theirs = supervision.DetectionDataset.from_coco(
        images_directory_path=str(root / "images"), annotations_path=str(root / "coco.json"), force_masks=True
    )
    mine = ours(root, root / "coco.json", "instances")
    compare(mine, theirs, 1e-4)
    for path, _, other in theirs:
        found, (width, height) = mine[Path(path).stem], SIZES[Path(path).stem]
        for row, shape in enumerate(found.shapes or ()):
            mask = from_shape(shape, height, width).whole(height, width)
            # supervision fills whole pixels by OpenCV, so the edge may differ by a pixel
            both, either = (mask & other.mask[row]).sum(), (mask | other.mask[row]).sum()
            assert both / either > 0.7
