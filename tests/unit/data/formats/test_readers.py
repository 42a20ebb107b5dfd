"""Each label format: the objects that it means, and one sentence for each way in which a file is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from edgeship.config import Evaluation
from edgeship.data.datasets import open_dataset
from edgeship.data.locate import located
from edgeship.data.preprocess import Geometry
from edgeship.errors import DataError

WIDTH, HEIGHT = 200, 100
GEOMETRY = Geometry(HEIGHT, WIDTH, HEIGHT, WIDTH)
CLASSES = ("person", "car")
BOX = [20.0, 10.0, 60.0, 50.0]
"""Of a car in ``a.png``, in pixels. ``b.png`` shows nothing."""


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "data" / "images" / "val"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return folder


VOC = """<annotation><filename>a.png</filename><size><width>200</width><height>100</height><depth>3</depth></size>
<object><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>60</xmax><ymax>50</ymax></bndbox><name>car</name>
<part><name>wheel</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>
</annotation>"""
NO_VOC = "<annotation><size><width>200</width><height>100</height></size></annotation>"
KITTI = "car 0.00 0 1.5 20.0 10.0 60.0 50.0 1.6 1.7 3.9 -1.1 1.4 8.0 1.2\n"
DOTA = "imagesource:GoogleEarth\ngsd:0.146343590398\n20.0 10.0 60.0 10.0 60.0 50.0 20.0 50.0 car 0\n"
BDD = [
    {"name": "a.png", "labels": [{"category": "car", "box2d": {"x1": 20, "y1": 10, "x2": 60, "y2": 50}}]},
    {"name": "b.png", "labels": [{"category": "lane/crosswalk", "poly2d": []}]},
]
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [20, 10, 40, 40], "area": 1600}],
}
HUGGING_FACE = [
    {"file_name": "a.png", "objects": {"bbox": [[20, 10, 40, 40]], "categories": [1]}},
    {"file_name": "b.png", "objects": {"bbox": [], "categories": []}},
]


def in_each_format(images):
    """Labels of the same two images: format → evaluation.labels."""
    root = images.parents[2] / "labels"
    put(root / "yolo" / "a.txt", "\ufeff1 0.2 0.3 0.2 0.4\n1 0.2 0.3 0.2 0.4\n")
    put(root / "yolo" / "b.txt", "\n")
    put(root / "polygons" / "a.txt", "1 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5")
    put(root / "voc" / "a.xml", VOC)
    put(root / "voc" / "b.xml", NO_VOC)
    put(root / "kitti" / "a.txt", KITTI)
    put(root / "kitti" / "b.txt", "")
    put(root / "dota" / "a.txt", DOTA)
    put(root / "dota" / "b.txt", DOTA[: DOTA.index("20.0")])
    for frame in BDD:
        put(root / "bdd" / f"{frame['name'][0]}.json", json.dumps({"name": frame["name"], "frames": [frame]}))
    return {
        "YOLO text files": root / "yolo",
        "YOLO polygons": root / "polygons",
        "Pascal VOC": root / "voc",
        "KITTI": root / "kitti",
        "DOTA": root / "dota",
        "BDD100K JSON": put(root / "bdd.json", json.dumps(BDD)),
        "BDD100K folder": root / "bdd",
        "COCO JSON": put(root / "coco.json", "\ufeff" + json.dumps(COCO)),
        "CSV": put(root / "boxes.csv", "image_path;xmin;ymin;xmax;ymax;label\na.png;20;10;60;50;car\nb.png;;;;;\n"),
        "Hugging Face metadata": put(root / "metadata.jsonl", "\n".join(map(json.dumps, HUGGING_FACE))),
    }


def test_every_format_gives_the_same_objects(images):
    for kind, labels in in_each_format(images).items():
        found = open_dataset(Evaluation(task="detection", images=images, labels=labels, classes=CLASSES))
        assert [item.id for item in found.items] == ["a.png", "b.png"], kind
        first, second = (item.target(GEOMETRY) for item in found.items)
        assert first.boxes == pytest.approx(np.array([BOX]), abs=1e-12), kind
        assert (first.labels.tolist(), first.crowd.tolist()) == ([1], [False]), kind
        assert first.area == pytest.approx([1600.0]), kind
        assert len(second.boxes) == 0, kind
        assert found.labelled == (0, 1), kind
        assert "2 labelled images, 1 without objects" in found.said or "1 without a label file" in found.said, kind
        assert found.said.endswith("classes without an example: person"), kind


def test_the_format_is_recognised_and_said(images):
    for kind, labels in in_each_format(images).items():
        found = open_dataset(Evaluation(task="detection", images=images, labels=labels, classes=CLASSES))
        if kind in (
            "YOLO text files",
            "Pascal VOC",
            "KITTI",
            "DOTA",
            "BDD100K JSON",
            "COCO JSON",
            "Hugging Face metadata",
        ):
            assert found.said.startswith(f"{kind}: "), kind


def test_names_in_the_labels_are_sorted_and_that_is_said(images):
    labels = in_each_format(images)["Pascal VOC"]
    found = open_dataset(Evaluation(task="detection", images=images, labels=labels))
    assert found.classes == ("car",)
    assert "evaluation.classes tells" in found.notes[0]


def test_yolo_numbers_stand_for_the_names_of_data_yaml(images):
    put(images.parents[1] / "labels" / "val" / "a.txt", "0 0.2 0.3 0.2 0.4")
    yaml = put(images.parents[1] / "data.yaml", "path: .\nval: images/val\nnames:\n  0: car\n  1: person\n")
    for settings in (
        Evaluation(task="detection", labels=yaml),
        Evaluation(task="detection", images=images),
        Evaluation(task="detection", images=images, labels=images.parents[1] / "labels" / "val"),
    ):
        found = located(settings)
        assert found.images == images
        assert found.labels == images.parents[1] / "labels" / "val"
        assert found.classes == found.label_classes == ("car", "person")
        assert located(found) == found
        assert open_dataset(settings).classes == ("car", "person")
    own = open_dataset(Evaluation(task="detection", labels=yaml, images=images, classes=("person", "car", "dog")))
    assert own.items[0].target(GEOMETRY).labels.tolist() == [1]
    with pytest.raises(DataError, match=r"'car' \(did you mean 'cart'\?\) is labelled"):
        open_dataset(Evaluation(task="detection", labels=yaml, classes=("cart",)))


def test_yolo_pose_and_rotated_boxes(images):
    put(images.parents[1] / "labels" / "val" / "a.txt", "0 0.2 0.3 0.2 0.4 0.15 0.2 2 0 0 0")
    yaml = put(images.parents[1] / "data.yaml", "val: images/val\nnames: [person]\nkpt_shape: [2, 3]\n")
    boxes = open_dataset(Evaluation(task="detection", labels=yaml)).items[0].target(GEOMETRY)
    assert boxes.boxes == pytest.approx(np.array([BOX]))
    points = open_dataset(Evaluation(task="keypoints", labels=yaml)).items[0].target(GEOMETRY).keypoints
    assert points == pytest.approx(np.array([[[30.0, 20.0, 2.0], [0.0, 0.0, 0.0]]]))
    put(images.parents[1] / "labels" / "val" / "a.txt", "0 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5")
    corners = open_dataset(Evaluation(task="rotated", images=images, classes=CLASSES)).items[0].target(GEOMETRY).corners
    assert corners == pytest.approx(np.array([[[20.0, 10.0], [60.0, 10.0], [60.0, 50.0], [20.0, 50.0]]]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", r"a\.txt, line 1: 4 numbers"),
        ("0 0.5 0.5 0.2 0.2 0.9", r"line 1: six numbers\nexpected: class cx cy w h; six look like predictions"),
        ("0 100 50 20 20", "line 1: the coordinate 100\nexpected: fractions"),
        ("0 0.5 nan 0.2 0.2", "'nan' is not a finite number"),
        ("car 0.5 0.5 0.2 0.2", "line 1: the line begins with 'car'\nexpected: the number of a class"),
        ("0.5 0.5 0.5 0.2 0.2", "the class is '0.5'"),
        ("7 0.5 0.5 0.2 0.2", "object of class 7, and 2 names"),
    ],
)
def test_wrong_yolo_lines(images, tmp_path, line, message):
    put(tmp_path / "labels" / "a.txt", line)
    with pytest.raises(DataError, match=message):
        open_dataset(Evaluation(task="detection", images=images, labels=tmp_path / "labels", classes=CLASSES))


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("instances", "0 0.5 0.5 0.2 0.2", "a box alone"),
        ("keypoints", "0 0.5 0.5 0.2 0.2", "a box alone"),
        ("keypoints", "0 0.5 0.5 0.2 0.2 0.5 0.5 1 0.5", "4 numbers after the box"),
        ("keypoints", "0 0.5 0.5 0.2 0.2 0.5 0.5 7", "another visibility"),
        ("keypoints", "0 0.5 0.5 0.2 0.2 5 0.5 2", "the coordinate 5"),
        ("rotated", "0 0.5 0.5 0.2 0.2", "5 numbers\nexpected: class and four corners"),
        ("rotated", "0 0.1 0.1 0.3 0.5 0.3 0.1 0.1 0.5", r"a\.txt, line 1: the corners cross"),
        ("rotated", "0 0.5 0.5 0.2 0.2 45", "six numbers\nexpected: class and four corners, .* an angle are not read"),
    ],
)
def test_labels_that_lack_what_a_task_needs(images, tmp_path, task, line, message):
    put(tmp_path / "labels" / "a.txt", line)
    with pytest.raises(DataError, match=message):
        open_dataset(Evaluation(task=task, images=images, labels=tmp_path / "labels", classes=CLASSES))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("voc/a.xml", "<annotation>", "not valid XML"),
        ("voc/a.xml", "<svg></svg>", "XML of another kind"),
        ("voc/a.xml", "<!DOCTYPE a [<!ENTITY x 'y'>]><annotation></annotation>", "declares entities"),
        ("voc/a.xml", "<annotation><object><name>car</name></object></annotation>", "'car' without xmin"),
        ("voc/a.xml", VOC.replace(">car<", ">cra<"), r"'cra' \(did you mean 'car'\?\)"),
        ("kitti/a.txt", KITTI + "car 0 0\n", r"a\.txt, line 2: 3 words"),
        (
            "dota/a.txt",
            DOTA + "20 10 60 10 60 50 20 car 0\n",
            r"a\.txt, line 4: 'car' is not a finite number",
        ),
        ("dota/a.txt", DOTA + "20 10 60 10 60 50 car\n", r"a\.txt, line 4: '20 10 60 10 60 50 car'\nexpected: x1 y1"),
        ("dota/a.txt", DOTA.replace("car 0", "car 2"), r"a\.txt, line 3: .*\nexpected: .* difficult 0 or 1"),
        ("dota/a.txt", DOTA.replace("60.0 50.0", "inf 50.0"), r"a\.txt, line 3: 'inf' is not a finite number"),
        ("dota/a.txt", DOTA.replace("car", "cra"), r"a\.txt, line 3: 'cra' \(did you mean 'car'\?\)"),
        ("kitti/a.txt", "car 0 0 0 30 10 10 30 1 1 1 1 1 1 0\n", r"a\.txt, line 1: the box 30 10 10 30 ends before"),
        ("voc/a.xml", VOC.replace("<xmax>", "<xmax>-"), r"a\.xml: car: the box .* ends before it begins"),
        (
            "bdd/a.json",
            '[{"name": "a.png", "labels": [{"category": "car", "box2d": {"x1": 9, "y1": 1, "x2": 5, "y2": 4}}]}]',
            "frame 0: car: the box 9 1 5 4 ends before",
        ),
        ("bdd/a.json", '{"frames": [{"name": "a.png", "labels": [{"category": "car", "box2d": {"x1": 1}}]}]}', "box2d"),
        ("coco/a.json", json.dumps(COCO), "holds COCO files"),
        ("none/readme.md", "", r"holds no labels, but readme\.md"),
    ],
)
def test_wrong_label_files(images, tmp_path, name, text, message):
    path = put(tmp_path / "labels" / name, text)
    with pytest.raises(DataError, match=message):
        open_dataset(Evaluation(task="detection", images=images, labels=path.parent, classes=CLASSES))


def test_a_table_of_widths_and_heights_is_not_taken_for_corners(images, tmp_path):
    path = put(tmp_path / "boxes.csv", "image,xmin,ymin,xmax,ymax,label\na.png,50,40,20,10,car\n")
    with pytest.raises(DataError, match="line 2: the box 50 40 20 10 ends before it begins"):
        open_dataset(Evaluation(task="detection", images=images, labels=path, classes=CLASSES))


def test_an_object_outside_its_image_is_named(images, tmp_path):
    path = put(tmp_path / "boxes.csv", "image,xmin,ymin,xmax,ymax,label\na.png,500,400,600,500,car\n")
    item = open_dataset(Evaluation(task="detection", images=images, labels=path, classes=CLASSES)).items[0]
    with pytest.raises(DataError, match=r"a\.png is 100×100, and the object at 500 400 600 500 lies outside it"):
        item.target(Geometry(100, 100, 50, 50))


def test_formats_side_by_side_are_refused(images, tmp_path):
    put(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.2 0.2")
    put(tmp_path / "labels" / "a.xml", VOC)
    with pytest.raises(DataError, match="holds YOLO text files and Pascal VOC"):
        open_dataset(Evaluation(task="detection", images=images, labels=tmp_path / "labels", classes=CLASSES))


def test_labels_of_absent_images_and_images_without_labels(images, tmp_path):
    (images / "b.png").unlink()
    Image.new("RGB", (WIDTH, HEIGHT)).save(images / "c.png")
    labels = in_each_format(images)["KITTI"]
    settings = Evaluation(task="detection", images=images, labels=labels, classes=CLASSES)
    with pytest.raises(DataError, match=r"labels 1 images that are not in .*: b\nexpected: at most 0"):
        open_dataset(settings)
    found = open_dataset(settings.model_copy(update={"allow_missing": 1}))
    assert found.said.startswith(
        "KITTI: 1 labelled images; 1 unlabelled images are left out; 1 labelled images are not there"
    )


def test_kitti_regions_to_ignore_excuse_every_class(images, tmp_path):
    put(tmp_path / "labels" / "a.txt", KITTI + KITTI.replace("car", "DontCare"))
    found = open_dataset(Evaluation(task="detection", images=images, labels=tmp_path / "labels", classes=CLASSES))
    objects = found.items[0].target(GEOMETRY)
    assert objects.labels[objects.crowd].tolist() == [0, 1]
    assert found.labelled == (0, 1)


def test_dotas_corners_and_difficult_objects(images, tmp_path):
    slanted = "30 20 50 10 60 30 40 40 car 1\n70 10 70 10 70 10 70 10 car 0\n"
    put(tmp_path / "labels" / "a.txt", DOTA + slanted)
    settings = Evaluation(task="rotated", images=images, labels=tmp_path / "labels", classes=CLASSES)
    found = open_dataset(settings)
    objects = found.items[0].target(GEOMETRY)
    assert objects.corners.tolist()[1] == [[30, 20], [50, 10], [60, 30], [40, 40]]
    assert objects.boxes.tolist() == [BOX, [30, 10, 60, 40]]
    assert objects.area.tolist() == [1600, 500]
    assert (objects.crowd.tolist(), found.labelled) == ([False, True], (0, 1))
    assert found.notes == (f"1 objects without area were left out of {tmp_path / 'labels'}",)
    put(tmp_path / "labels" / "a.txt", DOTA + slanted.replace("50 10 60 30", "60 30 50 10"))
    with pytest.raises(DataError, match=r"a\.txt, line 4: the corners .* cross"):
        open_dataset(settings)


def test_roboflows_root_category_is_not_a_class(images, tmp_path):
    text = COCO | {
        "categories": [
            {"id": 0, "name": "things", "supercategory": "none"},
            {"id": 1, "name": "person", "supercategory": "things"},
            {"id": 2, "name": "car", "supercategory": "things"},
        ]
    }
    path = put(tmp_path / "coco.json", json.dumps(text))
    found = open_dataset(Evaluation(task="detection", images=images, labels=path))
    assert found.classes == ("person", "car")
    assert any("only the root" in note for note in found.notes)


def test_metadata_among_the_images_is_found(images):
    put(images / "metadata.csv", "file_name,label\na.png,car\nb.png,person\n")
    found = open_dataset(Evaluation(task="classification", images=images))
    assert [(item.id, found.classes[item.target]) for item in found.items] == [("a.png", "car"), ("b.png", "person")]
    (images / "metadata.csv").unlink()
    put(images / "metadata.jsonl", "\n".join(map(json.dumps, HUGGING_FACE)))
    assert open_dataset(Evaluation(task="detection", images=images, classes=CLASSES)).labelled == (0, 1)


def test_a_labelled_keypoint_outside_its_image_is_refused(images, tmp_path):
    content = json.loads(json.dumps(COCO))
    content["annotations"][0]["keypoints"] = [30, 20, 2, 250, 20, 2]
    path = put(tmp_path / "pose.json", json.dumps(content))
    with pytest.raises(DataError, match=r"pose\.json: annotation .* has a keypoint at \(250, 20\), outside a\.png"):
        open_dataset(Evaluation(task="keypoints", images=images, labels=path))
    content["annotations"][0]["keypoints"][5] = 0
    opened = open_dataset(Evaluation(task="keypoints", images=images, labels=put(path, json.dumps(content))))
    assert opened.items[0].target(GEOMETRY).keypoints[0, 0].tolist() == [30, 20, 2]


def test_a_labelled_keypoint_outside_an_image_whose_size_no_label_tells(images, tmp_path):
    content = json.loads(json.dumps(COCO))
    content["images"][0] = {"id": 1, "file_name": "a.png"}
    content["annotations"][0]["keypoints"] = [250, 20, 2]
    path = put(tmp_path / "pose.json", json.dumps(content))
    (item, _) = open_dataset(Evaluation(task="keypoints", images=images, labels=path)).items
    with pytest.raises(DataError, match=r"a\.png is 200×100, and the keypoint at \(250, 20\) lies outside it"):
        item.target(GEOMETRY)


@pytest.mark.parametrize(
    "yaml", ["path: C:\\data\\set\nval: images\\val\n", "val: ../images/val\n", "path: /home/bob\nval: images/val\n"]
)
def test_a_data_yaml_of_another_machine_names_the_folder_beside_it(images, yaml):
    put(images.parents[1] / "labels" / "val" / "a.txt", "1 0.2 0.3 0.2 0.4")
    path = put(images.parents[1] / "data.yaml", yaml + "names: [person, car]\n")
    assert located(Evaluation(task="detection", labels=path)).images.resolve() == images


NESTED = "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b]\n"


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [person, no]", r"data\.yaml has the class name False\nexpected: .*\ndo: write the name in quotes"),
        ("names: {0: person, 1: null}", "has the class name None"),
        (NESTED + "names: [*c, car]", r"has the class name .{,80}\n"),
        (NESTED + "names: [person, car]\nkpt_shape: *c", r"says kpt_shape: .{,80}\n"),
        ("names: [person, car]\nkpt_shape: [0, 3]", r"says kpt_shape: \[0, 3\]"),
        ("names: {0: person, 2: car}", "has no usable names"),
    ],
)
def test_wrong_settings_of_a_data_yaml(images, yaml, message):
    put(images.parents[1] / "labels" / "val" / "a.txt", "1 0.2 0.3 0.2 0.4")
    path = put(images.parents[1] / "data.yaml", f"val: images/val\n{yaml}\n")
    with pytest.raises(DataError, match=message):
        open_dataset(Evaluation(task="detection", labels=path))


def test_lines_of_equal_numbers_are_one_object_and_images_of_one_stem_share_their_labels(images):
    put(images.parents[1] / "labels" / "val" / "a.txt", "1 0.2 0.3 0.2 0.4\n1 0.20 0.30 0.2 0.4\n")
    Image.new("RGB", (WIDTH, HEIGHT)).save(images / "a.jpg")
    found = open_dataset(Evaluation(task="detection", images=images, classes=CLASSES))
    assert [(item.id, len(item.target(GEOMETRY).boxes)) for item in found.items] == [
        ("a.jpg", 1),
        ("a.png", 1),
        ("b.png", 0),
    ]
    assert found.notes[0].startswith("1 repeated lines were left out")


def metadata(category):
    return json.dumps({"file_name": "a.png", "objects": {"bbox": [[1, 1, 5, 5]], "categories": [category]}})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "900000000 0.5 0.5 0.2 0.2", "class 900000000\nexpected: class numbers from 0, below 1,000,000"),
        ("m.jsonl", metadata(4_000_000_000), r"m\.jsonl: class 4000000000"),
        ("m.jsonl", metadata(-1), r"m\.jsonl, line 1: the category -1\nexpected: a class name"),
        ("m.jsonl", metadata(None), "line 1: the category None"),
        ("m.jsonl", metadata(1.5), r"line 1: the category 1\.5"),
        ("m.jsonl", f"{metadata(0)}\n{metadata(1)}", r"m\.jsonl, line 2: a\.png stands twice"),
        ("b.csv", "image,xmin,ymin,xmax,ymax,label\na.png,1,1,9,9,123456789", r"b\.csv: class 123456789"),
        ("b.json", '[{"labels": []}]', r"b\.json: frame 0 has no name"),
    ],
)
def test_what_names_no_class_or_no_image(images, tmp_path, name, text, message):
    path = put(tmp_path / "labels" / name, text)
    with pytest.raises(DataError, match=message):
        open_dataset(Evaluation(task="detection", images=images, labels=path if name != "a.txt" else path.parent))


def test_whole_numbers_of_any_writer_and_frames_without_labels(images, tmp_path):
    path = put(tmp_path / "m.jsonl", metadata(1.0))
    assert open_dataset(Evaluation(task="detection", images=images, labels=path, classes=CLASSES)).labelled == (0, 1)
    content = json.loads(json.dumps(COCO))
    content["images"][0] |= {"width": 200.0, "height": "100"}
    path = put(tmp_path / "c.json", json.dumps(content))
    found = open_dataset(Evaluation(task="detection", images=images, labels=path, classes=CLASSES))
    assert len(found.items[0].target(GEOMETRY).boxes) == 1
    put(tmp_path / "bdd" / "b.json", json.dumps({"name": "b", "frames": [{"labels": BDD[0]["labels"]}]}))
    path = put(tmp_path / "bdd" / "a.json", '{"frames": [{"name": "a.png", "labels": null}]}').parent
    found = open_dataset(Evaluation(task="detection", images=images, labels=path, classes=CLASSES))
    assert [(item.id, len(item.target(GEOMETRY).boxes)) for item in found.items] == [("a.png", 0), ("b.png", 1)]


@pytest.mark.parametrize("kind", ["coco", "csv"])
def test_names_as_windows_writes_them(images, tmp_path, kind):
    Image.new("RGB", (WIDTH, HEIGHT)).save(put(images / "sub" / "c.png", ""))
    content = COCO | {"images": [{"id": 1, "file_name": "sub\\c.png"}]}
    path = put(tmp_path / "coco.json", json.dumps(content))
    if kind == "csv":
        path = put(tmp_path / "boxes.csv", "image,xmin,ymin,xmax,ymax,label\nsub\\c.png,20,10,60,50,car\n")
    settings = Evaluation(task="detection", images=images, labels=path, classes=CLASSES)
    assert [item.id for item in open_dataset(settings).items] == ["sub/c.png"]
    put(path, path.read_text().replace("sub", ".."))
    with pytest.raises(DataError, match="leads out of the image folder"):
        open_dataset(settings)


def test_boxes_that_cvat_turned_are_said(images, tmp_path):
    content = json.loads(json.dumps(COCO))
    for angle, said in ((0.0, False), (30.0, True)):
        content["annotations"][0]["attributes"] = {"occluded": False, "rotation": angle}
        path = put(tmp_path / "cvat.json", json.dumps(content))
        notes = open_dataset(Evaluation(task="detection", images=images, labels=path, classes=CLASSES)).notes
        turned = [note for note in notes if "annotation 1 by 30.0°" in note]
        assert bool(turned) == said
    assert turned[0].startswith("1 boxes of cvat.json are turned (attributes.rotation)")


def test_run_lengths_of_another_image_are_told_with_their_annotation(images, tmp_path):
    content = json.loads(json.dumps(COCO))
    content["annotations"][0]["segmentation"] = {"size": [WIDTH, HEIGHT], "counts": [0, WIDTH * HEIGHT]}
    path = put(tmp_path / "masks.json", json.dumps(content))
    with pytest.raises(DataError, match=r"masks\.json: annotation 1 has run lengths of 100×200 pixels, a\.png is"):
        open_dataset(Evaluation(task="instances", images=images, labels=path))
