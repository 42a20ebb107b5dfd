"""Inputs beside the image: which are fed, by what, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeship.config import Input, Preprocess
from edgeship.data.beside import beside, check_cameras, constant, require_declared, single, stacked
from edgeship.data.preprocess import Geometry
from edgeship.errors import DataError
from edgeship.results import TensorInfo

IMAGE = TensorInfo(name="image", shape=("batch", 3, 8, 8), dtype="float32")
AT = Geometry(height=30, width=40, input_height=8, input_width=8)


def tensor(shape: tuple[int | str, ...], dtype: str = "float32", name: str = "x") -> TensorInfo:
    return TensorInfo(name=name, shape=shape, dtype=dtype)


def value(info: TensorInfo, names: tuple[str, ...] = ("a/1.png",), **declared: Any) -> Any:
    """What the first of the images gets."""
    steps = Preprocess(inputs={"x": Input.model_validate(declared)})
    return beside([IMAGE, info], steps, "evaluation", names)(names[0], AT)["x"]


@pytest.mark.parametrize(
    ("origin", "order", "expected"),
    [
        ("image_size", "height-width", [30, 40]),
        ("image_size", "width-height", [40, 30]),
        ("input_size", "height-width", [8, 8]),
    ],
)
def test_sizes_take_the_type_of_the_graph(origin: str, order: str, expected: list[int]) -> None:
    for dtype in ("int64", "float32"):
        found = value(tensor(("batch", 2), dtype), **{"from": origin, "order": order})
        assert found.tolist() == expected
        assert found.dtype == dtype


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((), 0.5, 0.5),
        (("batch",), 3, 3.0),
        (("batch", 2), 3, [3.0, 3.0]),
        ((2, 2), 1, [[1.0, 1.0], [1.0, 1.0]]),
        ((2, 2), [[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]),
        (("batch", 2), [5, 6], [5.0, 6.0]),
    ],
)
def test_a_constant_fills_the_input_or_one_row_of_it(shape: tuple[int | str, ...], given: Any, expected: Any) -> None:
    assert constant(tensor(shape), given).tolist() == expected


@pytest.mark.parametrize(
    ("info", "given", "words"),
    [
        (tensor(("batch", 2)), [1, 2, 3], "has shape [3], the input has ['batch', 2]"),
        (tensor((), "int64"), 0.5, "float64, input 'x' takes int64"),
        (tensor((), "uint8"), 300, "input 'x' takes uint8"),
        (tensor(()), "many", "expected: a number"),
    ],
)
def test_a_constant_that_does_not_fit_is_refused(info: TensorInfo, given: Any, words: str) -> None:
    with pytest.raises(DataError) as refused:
        constant(info, given)
    assert words in str(refused.value)


def saved(folder: Path, **arrays: Any) -> Path:
    for name, array in arrays.items():
        place = folder / f"{name.replace('__', '/')}.npy"
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, array)
    return folder


def test_an_array_is_found_by_the_path_or_by_its_last_part(tmp_path: Path) -> None:
    saved(tmp_path, a__1=[1.0, 2.0], b__1=[3.0, 4.0], only=[5.0, 6.0])
    info = tensor(("batch", 2))
    told = {"from": "arrays", "evaluation": tmp_path}
    assert value(info, ("a/1.png",), **told).tolist() == [1.0, 2.0]
    assert value(info, ("b/1.jpg",), **told).tolist() == [3.0, 4.0]
    assert value(info, ("c/only.png",), **told).tolist() == [5.0, 6.0]
    with pytest.raises(DataError, match=r"holds nothing for 1 of 2 images, for instance c/1\.png"):
        value(info, ("a/1.png", "c/1.png"), **told)


def test_two_images_never_take_one_value(tmp_path: Path) -> None:
    info, images = tensor(("batch", 2)), ("a/1.png", "b/1.png")
    told = {"from": "arrays", "evaluation": saved(tmp_path / "k", a__1=[1.0, 2.0])}
    with pytest.raises(DataError, match=r"a/1\.png and b/1\.png would both take 1\.npy"):
        value(info, images, **told)
    rows = {"from": "columns", "columns": ["p", "q"], "evaluation": table(tmp_path / "t.csv", "image,p,q\n1,0,0\n")}
    with pytest.raises(DataError, match=r"a/1\.png and b/1\.png would both take the row 1"):
        value(info, images, **rows)


def test_a_row_of_an_array_is_found_by_its_number(tmp_path: Path) -> None:
    told = {"from": "arrays", "evaluation": saved(tmp_path, **{"3": [1.0, 2.0], "frames": [0.0, 0.0]})}
    assert value(tensor(("batch", 2)), ("frames.npz[3]",), **told).tolist() == [1.0, 2.0]
    with pytest.raises(DataError, match="holds nothing for 1 of 1 images"):
        value(tensor(("batch", 2)), ("frames.npz[4]",), **told)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3), "has shape [3], input 'x' has ['batch', 2]"),
        (np.array([np.nan, 1.0]), "holds NaN or infinity"),
        (np.array([1j, 1j]), "is complex128, input 'x' takes float32"),
    ],
)
def test_an_array_that_does_not_fit_is_named_with_its_file(tmp_path: Path, array: Any, words: str) -> None:
    with pytest.raises(DataError) as refused:
        value(tensor(("batch", 2)), ("1.png",), **{"from": "arrays", "evaluation": saved(tmp_path, **{"1": array})})
    assert words in str(refused.value)
    assert "1.npy" in str(refused.value)


def test_a_broken_array_is_no_pickle(tmp_path: Path) -> None:
    np.save(tmp_path / "1.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"1\.npy cannot be read"):
        value(tensor(("batch", 2)), ("1.png",), **{"from": "arrays", "evaluation": tmp_path})


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("sign", [",", ";", "\t", "|", " "])
def test_columns_are_separated_by_any_sign_with_marks_anywhere(tmp_path: Path, sign: str) -> None:
    rows = [("Image", "A", "b"), ("\ufeff1.png", "1.5", "-2"), ("", "", ""), ("2.png", "3", "4")]
    path = table(tmp_path / "t.csv", "\ufeff" + "\n".join(sign.join(row).strip(" ") for row in rows))
    told = {"from": "columns", "evaluation": path, "columns": ["A", "b"]}
    assert value(tensor(("batch", 2)), ("1.png",), **told).tolist() == [1.5, -2.0]


def test_columns_fill_a_vector_or_a_matrix(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "\ufeffimage; a; b\n1.png; 1.5; -2\n2; 3; 4\n")
    told = {"from": "columns", "evaluation": path, "columns": ["b", "a"]}
    assert value(tensor(("batch", 2)), ("1.png",), **told).tolist() == [-2.0, 1.5]
    assert value(tensor((2, 1)), ("2.png",), **told).tolist() == [[4.0], [3.0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,a\n1.png,\n", "line 2: a is ''"),
        ("image,a\n1.png,fast\n", "line 2: a is 'fast'"),
        ("image,a\n1.png,1\n1,2\n", "line 3: 1 stands there twice"),
        ("image,b\n1.png,1\n", "no column 'a'"),
        ("time,a\n1,1\n", "expected: one that names the image"),
        ("image,a\n2.png,1\n", "has no row for 1 of 1 images, for instance 1.png"),
        ("image,a\n1.png,nan\n", "line 2: a value is not finite"),
        ("image,a\n1.png,0,5\n", "line 2: 3 values, the first row names 2 columns"),
        ("image,a,a\n1.png,1,2\n", "has two columns 'a'"),
        ("image,a\n,1\n", "line 2: no image is named"),
        ("image,a\n/,1\n", "line 2: '/' is named"),
        ("image,a\n.,1\n", "line 2: '.' is named"),
        ("image,a\n1.png\n", "line 2: a is ''"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    told = {"from": "columns", "evaluation": table(tmp_path / "t.csv", text), "columns": ["a"]}
    with pytest.raises(DataError) as refused:
        value(tensor(("batch", 1)), ("1.png",), **told)
    assert words in str(refused.value)


def picture(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 6), colour).save(path)


def test_a_camera_has_steps_and_an_index_of_its_own(tmp_path: Path) -> None:
    picture(tmp_path / "left" / "late.png", (10, 20, 30))
    index = table(tmp_path / "index.csv", "image,x\n1.png,left/late.png\n")
    info = tensor(("batch", 3, 2, 4))
    told = {"from": "images", "evaluation": index, "preprocess": {"fit": "stretch", "color": "bgr"}}
    found = value(info, ("1.png",), **told)
    assert found.shape == (3, 2, 4)
    assert found[:, 0, 0].tolist() == [30.0, 20.0, 10.0]
    table(index, "image,x\n1.png,../../etc/passwd\n")
    with pytest.raises(DataError, match=r"line 2: \.\./\.\./etc/passwd leads out"):
        value(info, ("1.png",), **told)
    table(index, "image,x\n1.png,left/none.png\n")
    with pytest.raises(DataError, match=r"line 2: there is no file left/none\.png"):
        value(info, ("1.png",), **told)


def test_a_frame_that_one_camera_lacks_is_named(tmp_path: Path) -> None:
    for name in ("front/1.png", "left/1.png", "left/2.png"):
        picture(tmp_path / name, (0, 0, 0))
    steps = Preprocess(inputs={"x": Input.model_validate({"from": "images", "evaluation": tmp_path / "left"})})
    with pytest.raises(DataError, match=r"1 of 2 frames that .*front lacks, for instance 2"):
        check_cameras(steps, "evaluation", tmp_path / "front")


def declared(**inputs: dict[str, Any]) -> Preprocess:
    return Preprocess(inputs={name: Input.model_validate(item) for name, item in inputs.items()})


@pytest.mark.parametrize(
    ("inputs", "steps", "words"),
    [
        ([IMAGE, tensor((2,))], Preprocess(input="image"), "images feed 'image' alone, and the model also needs 'x'"),
        ([IMAGE], declared(y={"value": 1}), "inputs.y: the model has no input 'y'"),
        ([IMAGE, tensor((2,))], Preprocess(), "2 of them could take the image"),
        ([tensor((2,))], declared(x={"value": 1}), "none of them could take the image"),
    ],
)
def test_every_input_is_declared_and_nothing_else(inputs: list[TensorInfo], steps: Preprocess, words: str) -> None:
    with pytest.raises(DataError) as refused:
        require_declared(inputs, steps)
    assert words in str(refused.value)


def test_a_set_without_a_place_is_refused(tmp_path: Path) -> None:
    steps = declared(x={"from": "arrays", "calibration": tmp_path})
    with pytest.raises(DataError, match="nothing says where its values for the evaluation images are"):
        beside([IMAGE, tensor(("batch", 2))], steps, "evaluation")


@pytest.mark.parametrize(
    ("info", "source", "expected"),
    [
        (tensor((3, 3)), {"from": "arrays", "evaluation": "k"}, "x"),
        (tensor((3, 3)), {"value": 1}, ""),
        (tensor(("batch", 3)), {"from": "arrays", "evaluation": "k"}, ""),
        (tensor((2,)), {"from": "input_size"}, ""),
        (tensor((2,)), {"from": "image_size"}, "x"),
    ],
)
def test_a_value_of_its_own_without_a_batch_axis_lets_one_image_through(
    info: TensorInfo, source: dict[str, Any], expected: str
) -> None:
    assert single([IMAGE, info], declared(x=source)) == expected


def test_values_are_stacked_where_the_input_has_a_batch_axis() -> None:
    rows = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    assert stacked(tensor(("batch", 2)), rows).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert stacked(tensor((2,)), [rows[0], rows[0].copy()]).tolist() == [1.0, 2.0]
    with pytest.raises(DataError, match="has no batch axis, and its value differs"):
        stacked(tensor((2,)), rows)


@pytest.mark.parametrize("make", [tuple, list])
def test_rows_of_several_shapes_are_refused(make: Callable[[Any], Any]) -> None:
    with pytest.raises(DataError, match="several shapes in one batch"):
        stacked(tensor(("batch", "n")), make([np.zeros(2), np.zeros(3)]))
