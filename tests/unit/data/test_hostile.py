"""Files from outside, mutated at random: read, or refused in one sentence."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeship.data import coco, labels, masks
from edgeship.data.npz import open_npz
from edgeship.errors import DataError

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4)
KEYS = st.sampled_from(["id", "image_id", "category_id", "bbox", "area", "file_name", "width", "height", "name", "x"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5))
ROWS = st.lists(st.dictionaries(KEYS, VALUES, max_size=6), max_size=4)


@QUICK
@given(content=st.fixed_dictionaries({"images": ROWS, "annotations": ROWS, "categories": ROWS}) | VALUES)
def test_coco_json_of_any_shape(tmp_path, content):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    try:
        found = coco.read(path, None)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(np.isfinite(image.objects.boxes).all() for image in found.images)


@QUICK
@given(change=st.dictionaries(KEYS, VALUES, min_size=1, max_size=2), part=st.sampled_from([0, 1, 2]))
def test_a_good_coco_json_with_one_wrong_row(tmp_path, change, part):
    rows = [
        {"id": 1, "file_name": "a.png", "width": 4, "height": 4},
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4},
        {"id": 1, "name": "car"},
    ]
    rows[part] |= change
    path = tmp_path / "coco.json"
    path.write_text(
        json.dumps(dict(zip(("images", "annotations", "categories"), ([row] for row in rows), strict=True)))
    )
    try:
        found = coco.read(path, ("car",))
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert found.classes == ("car",)


@QUICK
@given(content=VALUES)
def test_label_json_of_any_shape(tmp_path, content):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    try:
        found = labels.read(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(name, str) for name, _ in found)


@QUICK
@given(text=st.text(alphabet='image,label\n\r"a1;\x00 é', max_size=60))
def test_label_csv_of_any_text(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text("image,label\n" + text, encoding="utf-8")
    try:
        found = labels.read(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert found


@QUICK
@given(seed=st.integers(0, 100_000), packed=st.booleans())
def test_mutated_npz(tmp_path, seed, packed):
    random = np.random.default_rng(seed)
    path = tmp_path / "a.npz"
    (np.savez_compressed if packed else np.savez)(path, images=np.zeros((4, 5), np.uint8), labels=np.arange(3))
    content = bytearray(path.read_bytes())
    for _ in range(random.integers(1, 6)):
        content[random.integers(0, len(content))] = random.integers(0, 256)
    path.write_bytes(content)
    try:
        found = open_npz(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(array.dtype != object for array in found.values())


def test_an_encrypted_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros((4, 5), np.uint8))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not an \.npz of plain arrays: .*encrypted"):
        open_npz(path)


def test_deeply_nested_json_is_refused(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="not valid JSON"):
        labels.read(path)


@pytest.mark.parametrize("header", ["{'descr': '|u1', 'shape': (", "{'shape': (10 ** 20,)}", "(" * 300, "  x\n y"])
def test_an_array_header_that_python_cannot_read_is_refused(tmp_path, header):
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "mask.npy").write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        masks.read(tmp_path / "mask.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", data)
    with pytest.raises(DataError, match=r"not an \.npz of plain arrays"):
        open_npz(tmp_path / "a.npz")


def test_an_array_larger_than_memory_is_refused(tmp_path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000,), }\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "mask.npy").write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        masks.read(tmp_path / "mask.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", data)
    with pytest.raises(DataError, match=r"not an \.npz of plain arrays"):
        open_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("reader", [labels.read, lambda path: coco.read(path, None)], ids=["labels", "coco"])
def test_a_number_of_a_million_digits_is_refused(tmp_path, reader):
    (tmp_path / "x.json").write_text('{"a.png": ' + "9" * 1_000_000 + "}")
    with pytest.raises(DataError, match=r"x\.json"):
        reader(tmp_path / "x.json")
