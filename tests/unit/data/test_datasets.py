"""Datasets: what is read, and one clear message for each way they can be wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from edgeship.config import Evaluation
from edgeship.data import labels
from edgeship.data.datasets import open_dataset
from edgeship.data.names import read_classes
from edgeship.data.objects import from_dict
from edgeship.data.preprocess import Geometry
from edgeship.errors import DataError


def save(path, size=(12, 8), value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def opened(task="classification", **settings):
    return open_dataset(Evaluation(task=task, **settings))


@pytest.fixture
def pets(tmp_path):
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        save(tmp_path / "val" / name)
    return tmp_path / "val"


def test_folder_per_class(pets):
    found = opened(images=pets)
    assert found.classes == ("cat", "dog")
    assert [(item.id, item.target) for item in found.items] == [("cat/a.png", 0), ("cat/b.png", 0), ("dog/c.png", 1)]


def test_folder_per_class_with_the_models_own_order(pets):
    found = opened(images=pets, classes=("bird", "dog", "cat"))
    assert [item.target for item in found.items] == [2, 2, 1]


def test_numbered_folders_are_the_models_outputs(tmp_path):
    save(tmp_path / "2" / "a.png")
    save(tmp_path / "10" / "b.png")
    found = opened(images=tmp_path)
    assert [item.target for item in found.items] == [10, 2]
    assert found.fitted(1000).classes[:3] == ("0", "1", "2")
    with pytest.raises(DataError, match="output has 4 classes, the labels name 11"):
        found.fitted(4)


def test_named_classes_must_match_the_head(pets):
    with pytest.raises(DataError, match="output has 1000 classes, the labels name 2: cat, dog"):
        opened(images=pets).fitted(1000)


def test_misspelled_class_folder(pets):
    with pytest.raises(DataError, match=r"'dog' \(did you mean 'dogs'\?\)"):
        opened(images=pets, classes=("cat", "dogs"))


def test_class_names_from_a_file(pets, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("dog\n\ncat\n")
    assert opened(images=pets, classes=names).classes == ("dog", "cat")
    names.write_text("dog\ndog\n")
    with pytest.raises(DataError, match="stand twice: dog"):
        opened(images=pets, classes=names)
    names.write_text("\n")
    with pytest.raises(DataError, match="no class names"):
        opened(images=pets, classes=names)
    with pytest.raises(DataError, match="cannot be read"):
        opened(images=pets, classes=tmp_path / "absent.txt")


def test_absent_empty_and_loose_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        opened(images=tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it is empty"):
        opened(images=tmp_path / "empty")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"it holds readme\.txt"):
        opened(images=tmp_path / "notes")
    save(tmp_path / "loose" / "a.png")
    with pytest.raises(DataError, match="outside any class folder"):
        opened(images=tmp_path / "loose")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "image,label\na.png,cat\nb.png,dog\n"),
        ("l.csv", "File_Name , Class\na.png,cat\nb.png,dog\n"),
        ("l.json", '{"a.png": "cat", "b.png": "dog"}'),
        ("l.json", '[{"path": "a.png", "label": "cat"}, {"path": "b.png", "label": "dog"}]'),
    ],
)
def test_lists_of_labels(tmp_path, name, text):
    for image in ("a.png", "b.png"):
        save(tmp_path / "images" / image)
    (tmp_path / name).write_text(text)
    found = opened(images=tmp_path / "images", labels=tmp_path / name)
    assert [(item.id, found.classes[item.target]) for item in found.items] == [("a.png", "cat"), ("b.png", "dog")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "a,b\n1,2\n", "has the columns a, b"),
        ("l.csv", "", "has the columns none"),
        ("l.csv", "image,label\n", "holds no labels"),
        ("l.csv", "image,label\na.png,\n", "line 2: no label"),
        ("l.csv", "image,label\na.png,cat\na.png,cat\n", "labels a.png twice"),
        ("l.csv", "image,label\nz.png,cat\n", "not in .*: z.png"),
        ("l.csv", "image,label\na.png,cta\n", r"'cta' \(did you mean 'cat'\?\)"),
        ("l.csv", "image,label\na.png,7\n", "a.png has label 7"),
        ("l.csv", "image,label\n../images/a.png,cat\n", "leads out of the image folder"),
        ("l.csv", 'image,label\na.png,"cat\nb.png,dog\n', r"l\.csv, line 2: a quoted value does not end in its line"),
        ("l.csv", 'image,label\na.png,"cat\n' + "b.png,dog\n" * 20_000, "line 2: a quoted value does not end"),
        ("l.csv", "image,label,label\na.png,cat,dog\n", "has two columns 'label'"),
        ("l.jsonl", '{"image": "a.png", "label": "cat"}\n{"label": "dog"}', r"l\.jsonl, line 2: no image"),
        ("l.jsonl", '{"image": "a.png", "label": "cat"}\n{"image": "b.png"}', r"l\.jsonl, line 2: no label"),
        ("l.jsonl", '{"image": null, "label": "cat"}', "line 1: no image"),
        ("l.jsonl", "[1]", "line 1 is not a JSON object"),
        ("l.json", "{", "not valid JSON"),
        ("l.json", "[1]", "JSON of another shape"),
        ("l.json", '{"a.png": [1]}', r"label of a.png is \[1\]"),
        ("l.json", '{"images": [], "annotations": []}', "COCO JSON of boxes"),
    ],
)
def test_wrong_lists_of_labels(tmp_path, name, text, message):
    save(tmp_path / "images" / "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        opened(images=tmp_path / "images", labels=tmp_path / name, classes=("cat", "dog"))


@pytest.mark.parametrize(("classes", "targets"), [(("00", "01", "02", "10"), [1, 3]), (None, [1, 10])])
def test_labels_of_digits_are_names_where_the_classes_have_them(tmp_path, classes, targets):
    for image in ("a.png", "b.png"):
        save(tmp_path / "images" / image)
    (tmp_path / "l.csv").write_text("image,label\na.png,01\nb.png,10\n")
    found = opened(images=tmp_path / "images", labels=tmp_path / "l.csv", classes=classes)
    assert [item.target for item in found.items] == targets


def test_a_class_number_that_no_head_has(tmp_path):
    save(tmp_path / "images" / "a.png")
    (tmp_path / "l.csv").write_text("image,label\na.png,3000000000\n")
    with pytest.raises(DataError, match="class 3000000000\nexpected: class numbers from 0, below 1,000,000"):
        opened(images=tmp_path / "images", labels=tmp_path / "l.csv")


@pytest.mark.parametrize("line", ["a b.png 65", "a b.png\t65", "a b.png   65"])
def test_a_list_without_a_header_keeps_the_spaces_of_a_name(tmp_path, line):
    save(tmp_path / "images" / "a b.png")
    (tmp_path / "val.txt").write_text(line)
    (item,) = opened(images=tmp_path / "images", labels=tmp_path / "val.txt").items
    assert (item.id, item.target) == ("a b.png", 65)


def test_npz(tmp_path):
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    np.savez(tmp_path / "v.npz", images=images, labels=np.array([1, 0, 1]), classes=np.array(["shirt", "shoe"]))
    found = opened(images=tmp_path / "v.npz")
    assert found.classes == ("shirt", "shoe")
    assert [item.target for item in found.items] == [1, 0, 1]
    assert np.array_equal(found.items[2].source, images[2])


def test_wrong_npz(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, pictures=np.zeros(3))
    with pytest.raises(DataError, match="holds pictures"):
        opened(images=path)
    np.savez(path, images=np.zeros((3, 4, 4), np.uint8), labels=np.zeros(2, int))
    with pytest.raises(DataError, match="3 images and 2 labels"):
        opened(images=path)
    np.savez(path, images=np.zeros((3, 4, 4), np.uint8), labels=np.zeros(3))
    with pytest.raises(DataError, match="expected: integers"):
        opened(images=path)
    np.savez(path, images=np.zeros((1, 4, 4), np.uint8), labels=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="need pickle"):
        opened(images=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"not an \.npz of plain arrays"):
        opened(images=path)


def test_limit_takes_images_from_everywhere(tmp_path):
    np.savez(tmp_path / "v.npz", images=np.zeros((10, 4, 4), np.uint8), labels=np.arange(10))
    assert [item.target for item in opened(images=tmp_path / "v.npz", limit=3).items] == [1, 5, 8]


def coco(tmp_path, **changes):
    save(tmp_path / "images" / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 12, "height": 8}],
        "categories": [{"id": 3, "name": "person"}, {"id": 1, "name": "car"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 4, 5], "area": 9, "iscrowd": 0}],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content | changes))
    return {"images": tmp_path / "images", "labels": path}


def annotation(**changes):
    return [{"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2, 4, 5]} | changes]


def test_coco_json(tmp_path):
    found = opened("detection", **coco(tmp_path))
    assert found.classes == ("car", "person")
    objects = found.items[0].target(Geometry(8, 12, 8, 12))
    assert objects.boxes.tolist() == [[1, 2, 5, 7]]
    assert (objects.labels.tolist(), objects.area.tolist(), objects.crowd.tolist()) == ([1], [9], [False])


def test_coco_json_in_the_models_order_and_with_images_without_objects(tmp_path):
    found = opened("detection", **coco(tmp_path, annotations=[]), classes=("bus", "person", "car"))
    assert found.classes == ("bus", "person", "car")
    assert len(found.items[0].target(Geometry(8, 12, 8, 12)).labels) == 0


def test_coco_boxes_without_area_or_outside_are_left_out_and_counted(tmp_path):
    rows = [
        *annotation(),
        *annotation(bbox=[1, 1, 0, 4]),
        *annotation(bbox=[40, 1, 5, 5]),
        *annotation(bbox=[-9, 1, 5, 5]),
        *annotation(bbox=[8, 4, 50, 50]),
    ]
    found = opened("detection", **coco(tmp_path, annotations=rows))
    assert found.items[0].target(Geometry(8, 12, 8, 12)).boxes.tolist() == [[1, 2, 5, 7], [8, 4, 58, 54]]
    assert found.notes == (
        "1 boxes without area were left out of coco.json",
        "2 boxes wholly outside their image were left out of coco.json",
        "category 'car' of coco.json has no annotation; it counts as output 0 of the model: evaluation.classes tells",
    )


def test_ids_of_a_coco_json_are_one_type_whoever_wrote_them(tmp_path):
    files = coco(
        tmp_path,
        images=[{"id": "7", "file_name": "a.png"}],
        annotations=annotation(image_id=7.0, category_id="1"),
        categories=[{"id": 1.0, "name": "person"}, {"id": "x", "name": "car"}],
    )
    found = opened("detection", **files)
    assert found.classes == ("person", "car")  # numbers before words
    assert found.items[0].target(Geometry(8, 12, 8, 12)).labels.tolist() == [0]
    assert found.labelled == (1, 0)


def test_boxes_as_fractions_are_refused(tmp_path):
    with pytest.raises(DataError, match="all 1 boxes are smaller than one pixel"):
        opened("detection", **coco(tmp_path, annotations=annotation(bbox=[0.1, 0.2, 0.3, 0.4])))


def test_an_image_that_stands_twice_is_refused(tmp_path):
    rows = [{"id": number, "file_name": "a.png"} for number in (7, 8, 9)]
    with pytest.raises(DataError, match=r"3 images are 1 distinct files: 'a\.png' stands 3 times"):
        opened("detection", **coco(tmp_path, images=rows))


@pytest.mark.parametrize("flag", ["0", "no", 2, None])
def test_a_crowd_flag_that_is_no_number_is_refused(tmp_path, flag):
    with pytest.raises(DataError, match="iscrowd"):
        opened("detection", **coco(tmp_path, annotations=annotation(iscrowd=flag)))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_labels_with_a_byte_order_mark_and_other_separators(tmp_path, mark, separator):
    (tmp_path / "a.csv").write_text(f"{mark}image{separator}label\na,b.jpg{separator}cat\n".replace("a,b", "ab"))
    assert labels.read(tmp_path / "a.csv") == [("ab.jpg", "cat")]


@pytest.mark.parametrize(
    "text", ["\ufeffred\ngreen\n", "0: red\n1: green\n", "0,red\n1,green", "0\tred\r\n1\t'green'\r\n"]
)
def test_class_names_with_a_mark_or_numbered(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    assert read_classes(tmp_path / "classes.txt") == ("red", "green")


def test_names_that_only_begin_with_numbers_stay(tmp_path):
    (tmp_path / "classes.txt").write_text("3: a\n7: b\n")
    assert read_classes(tmp_path / "classes.txt") == ("3: a", "7: b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, "is not COCO JSON"),
        ({"images": [{"id": 7, "file_name": "b.png"}]}, "labels 1 images that are not in .*: b.png"),
        ({"images": [{"id": 7, "file_name": "../a.png"}]}, "leads out of the image folder"),
        ({"images": [{"id": 7, "file_name": "a.png", "width": "wide"}]}, "another size than whole pixels"),
        ({"images": [{"file_name": "a.png"}]}, "without id or file_name"),
        ({"images": [{"id": 7, "file_name": "a.png"}] * 2}, "two images have the id 7"),
        ({"annotations": annotation(image_id=8)}, "annotation 5 belongs to image_id 8"),
        ({"annotations": annotation(category_id=9)}, "annotation 5 has category_id 9"),
        ({"annotations": annotation(bbox=[1, 2, 3])}, r"annotation 5 has bbox \[1, 2, 3\]"),
        ({"annotations": annotation(bbox=[1, 2, 3, None])}, "annotation 5 has bbox"),
        ({"annotations": annotation(area="big")}, "annotation 5 has area 'big'"),
        ({"categories": [{"id": 3}]}, "a category without id or name"),
        ({"categories": [{"id": 3, "name": "x"}] * 2}, "stands twice"),
    ],
)
def test_wrong_coco_json(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        opened("detection", **coco(tmp_path, **changes))


def test_a_category_that_is_no_class_of_the_model(tmp_path):
    with pytest.raises(DataError, match=r"'person' \(did you mean 'persons'\?\) is labelled and is not"):
        opened("detection", **coco(tmp_path), classes=("persons", "car"))


def test_an_image_of_another_size_than_annotated(tmp_path):
    found = opened("detection", **coco(tmp_path))
    with pytest.raises(DataError, match=r"a.png is 8×12, its annotations are for 12×8"):
        found.items[0].target(Geometry(12, 8, 12, 8))


def masks(tmp_path, mask):
    save(tmp_path / "images" / "one" / "a.png")
    path = tmp_path / "masks" / "one" / "a.png"
    path.parent.mkdir(parents=True)
    mask.save(path)
    return opened("segmentation", images=tmp_path / "images", labels=tmp_path / "masks")


def test_mask_folders(tmp_path):
    values = np.arange(96, dtype=np.uint8).reshape(8, 12) % 3
    found = masks(tmp_path, Image.fromarray(values))
    assert found.items[0].id == "one/a.png"
    assert np.array_equal(found.items[0].target(Geometry(8, 12, 8, 8)), values)
    assert found.fitted(3).classes == ("0", "1", "2")


@pytest.mark.parametrize(("suffix", "other"), [(".PNG", ".npy"), (".Tif", ".bmp"), (".NPY", ".txt")])
def test_masks_with_suffixes_in_capitals(tmp_path, suffix, other):
    """Of several masks of one image, the first of the suffixes that the documentation names is taken."""
    values = np.arange(96, dtype=np.uint8).reshape(8, 12) % 3
    save(tmp_path / "images" / "a.b.JPG")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / f"a.b{other}").write_bytes(b"not this one")
    if suffix == ".NPY":
        with (tmp_path / "masks" / f"a.b{suffix}").open("wb") as stream:
            np.save(stream, values)
    else:
        Image.fromarray(values).save(tmp_path / "masks" / f"a.b{suffix}")
    found = opened("segmentation", images=tmp_path / "images", labels=tmp_path / "masks")
    assert np.array_equal(found.items[0].target(Geometry(8, 12, 8, 8)), values)


def test_palette_masks_give_their_indices(tmp_path):
    image = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12) % 3).convert("P")
    values = np.arange(96, dtype=np.uint8).reshape(8, 12) % 3
    image.putdata(values.ravel().tolist())
    found = masks(tmp_path, image)
    assert np.array_equal(found.items[0].target(Geometry(8, 12, 8, 8)), values)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (12, 9)), "is 12×9, its image is 12×8"),
        (Image.new("RGB", (12, 8)), "pixel mode RGB"),
    ],
)
def test_wrong_masks(tmp_path, mask, message):
    found = masks(tmp_path, mask)
    with pytest.raises(DataError, match=message):
        found.items[0].target(Geometry(8, 12, 8, 8))


def test_images_without_masks(tmp_path):
    save(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"1 of 1 images have no mask in .*, for instance a.png"):
        opened("segmentation", images=tmp_path / "images", labels=tmp_path / "masks")
    with pytest.raises(DataError, match=r"mask folder .* does not exist"):
        opened("segmentation", images=tmp_path / "images", labels=tmp_path / "absent")
    with pytest.raises(DataError, match="expected: a folder of masks"):
        opened("segmentation", images=tmp_path / "images")
    with pytest.raises(DataError, match="expected: a COCO JSON"):
        opened("detection", images=tmp_path / "images")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"boxes": [[1, 2, 3]], "labels": [0]}, r"boxes of shape \[1, 3\]"),
        ({"boxes": [[5, 5, 3, 9]], "labels": [0]}, r"has the box \[5.0, 5.0, 3.0, 9.0\]"),
        ({"boxes": [[5, 5, 5, 9]], "labels": [0]}, "those without area"),
        ({"boxes": [[0, 0, float("nan"), 9]], "labels": [0]}, r"box \[0.0, 0.0, nan"),
        ({"boxes": [[0, 0, 1, 1]], "labels": []}, "1 boxes and 0 labels"),
        ({"boxes": [[0, 0, 1, 1]], "labels": ["cta"]}, r"'cta' \(did you mean 'cat'\?\)"),
        ({"boxes": [[0, 0, 1, 1]], "labels": [0], "crowd": [0, 1]}, "1 boxes, 2 crowd flags and 1 areas"),
        ({"boxes": [[0, 0, 1, 1]]}, "a dict with boxes and labels"),
    ],
)
def test_wrong_boxes_of_a_callable(target, message):
    with pytest.raises(DataError, match=message):
        from_dict("a.png", target, ("cat", "dog"))


def test_an_image_of_a_callable_without_objects():
    assert from_dict("a.png", {"boxes": [], "labels": []}, ("cat",)).boxes.shape == (0, 4)


def test_module_callable(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(
        "import numpy as np\n"
        "def pets():\n"
        "    yield np.zeros((4, 4, 3), np.uint8), 'cat'\n"
        "    yield np.ones((4, 4, 3), np.uint8), 'dog', 'second'\n"
        "def boxes():\n"
        "    yield np.zeros((4, 4, 3), np.uint8), {'boxes': [[0, 0, 2, 2]], 'labels': ['dog']}\n"
        "def broken():\n"
        "    yield 3\n"
    )
    monkeypatch.chdir(tmp_path)
    found = opened(images="own_data:pets")
    assert [(item.id, item.target) for item in found.items] == [("own_data:pets[0]", 0), ("second", 1)]
    found = opened("detection", images="own_data:boxes", classes=("cat", "dog"))
    assert next(iter(found.items)).target.labels.tolist() == [1]
    with pytest.raises(DataError, match="item 0 is int"):
        opened(images="own_data:broken")
    with pytest.raises(DataError, match="no callable 'absent'"):
        opened(images="own_data:absent")
    with pytest.raises(DataError, match="cannot be imported"):
        opened(images="no_such_module_here:thing")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "image|label\na.png|dog\nb.png|cat\n"),
        ("l.tsv", "\ufeffimage\tlabel\na.png\tdog\nb.png\tcat\n"),
        ("l.csv", "image label\na.png dog\nb.png cat\n"),
        ("l.txt", "a.png dog\nb.png cat\n"),
        ("l.jsonl", '{"file_name": "a.png", "label": "dog"}\n{"file_name": "b.png", "label": "cat"}\n'),
        ("l.csv", "ImageId,PredictionString\na,dog 1 2 3 4 dog 1 2 3 4\nb,cat 1 2 3 4\n"),
        ("utf16.csv", "image;label\na.png;dog\nb.png;cat\n"),
    ],
)
def test_lists_of_any_delimiter(tmp_path, name, text):
    for image in ("a.png", "b.png", "c.png"):
        save(tmp_path / "images" / image)
    (tmp_path / name).write_text(text, encoding="utf-16" if name == "utf16.csv" else "utf-8")
    found = opened(images=tmp_path / "images", labels=tmp_path / name, classes=("cat", "dog"))
    assert [(item.id, item.target) for item in found.items] == [("a.png", 1), ("b.png", 0)]
    assert found.said == f"a list of labels, {name}: 2 labelled images; 1 unlabelled images are left out"


def test_absent_images_of_a_list_stop_it_beyond_allow_missing(pets):
    (pets / "l.csv").write_text("image,label\ncat/a.png,cat\nnone.png,dog\n")
    with pytest.raises(DataError, match=r"labels 1 images that are not in .*: none\.png\nexpected: at most 0"):
        opened(images=pets, labels=pets / "l.csv")
    found = opened(images=pets, labels=pets / "l.csv", allow_missing=1)
    assert "1 labelled images are not there" in found.said
    assert found.said.endswith("classes without an example: dog")


@pytest.mark.parametrize("classes", [("tench", "goldfish"), ("n01440764 tench", "n01443537 goldfish")])
def test_imagenets_folders_stand_for_the_class_names(tmp_path, classes):
    save(tmp_path / "n01443537" / "b.JPEG")
    save(tmp_path / "n01440764" / "a.JPEG")
    found = opened(images=tmp_path, classes=classes)
    assert [(item.id[-6:], item.target) for item in found.items] == [("a.JPEG", 0), ("b.JPEG", 1)]
    assert "n01440764 is" in found.notes[0]
    with pytest.raises(DataError, match="class folders that are not classes: 'n01440764'"):
        opened(images=tmp_path, classes=("tench", "goldfish", "shark"))


@pytest.mark.parametrize(("end", "value", "expected"), [("labelIds", 26, 13), ("labelTrainIds", 13, 13)])
def test_cityscapes_ids(tmp_path, end, value, expected):
    save(tmp_path / "images" / "ulm" / "ulm_000_leftImg8bit.png")
    mask = np.full((8, 12), value, np.uint8)
    mask[0] = 255 if end == "labelTrainIds" else 4
    (tmp_path / "gt" / "ulm").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "gt" / "ulm" / f"ulm_000_gtFine_{end}.png")
    found = opened("segmentation", images=tmp_path / "images", labels=tmp_path / "gt")
    read = found.items[0].target(Geometry(8, 12, 8, 12))
    assert (found.classes[expected], len(found.classes)) == ("car", 19)
    assert sorted(np.unique(read).tolist()) == [expected, 255]
    assert found.said == "Cityscapes ids: 1 labelled images"


def test_a_dictionary_keeps_its_space_and_a_list_of_classes_loses_blank_lines(tmp_path):
    (tmp_path / "dictionary.txt").write_text(" \n!\na\nb\n")
    assert read_classes(tmp_path / "dictionary.txt", symbols=True) == (" ", "!", "a", "b")
    assert read_classes(tmp_path / "dictionary.txt") == ("!", "a", "b")
