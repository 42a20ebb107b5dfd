"""Preflight: the real TensorRT-RTX parser on graphs with one trouble each."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeship
from edgeship.config import InputSpec, Model
from edgeship.errors import MissingExtra, ModelError
from edgeship.prepare import export
from edgeship.prepare.preflight import REMEDIES, describe, preflight, require
from edgeship.results import Preflight
from processes import Ended, python
from small_project import value


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: list[object], outputs: list[object], domain: str = ""
) -> Path:
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph(nodes, "trouble", inputs, outputs), opset_imports=opsets, ir_version=10)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def troubled(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("Unique", ["a"], ["u"], "uniq"),
        helper.make_node("Foo", ["a"], ["b"], "foo", domain="my.ops"),
        helper.make_node("Det", ["m"], ["d"], "det"),
    ]
    inputs = [value("x", ["n", 3]), value("m", [3, 3])]
    outputs = [
        value("b", ["n", 3]), value("d", []),
        value("u", ["k"]),
    ]  # fmt: skip
    return save(tmp_path / "troubled.onnx", nodes, inputs, outputs, "my.ops")


def test_a_preferred_flavour_that_does_not_work_here_gives_way(troubled: Path) -> None:
    result = preflight(troubled, prefer="tensorrt")
    assert result.parser is not None
    assert result.parser.startswith("the ONNX parser of TensorRT-RTX")


def test_every_rejected_node_in_one_pass_with_the_remedies_in_order(troubled: Path) -> None:
    result = preflight(troubled, engine="tensorrt-rtx")
    assert [(problem.operator, problem.node) for problem in result.errors] == [
        ("Unique", "uniq"), ("Foo", "foo"), ("Det", "det")
    ]  # fmt: skip
    assert result.errors[0].reason == "TensorRT has no implementation of Unique"
    assert result.errors[0].remedies == REMEDIES
    assert "Plugin not found" in result.errors[1].reason
    assert result.errors[1].remedies[0].startswith("if a plugin for it exists, load it")
    with pytest.raises(ModelError) as caught:
        require(result)
    assert str(caught.value).count("  - ") == 3
    assert "Det 'det'" in str(caught.value)


DETERMINANT = """
import torch
from torch import nn

class Area(nn.Module):
    def forward(self, x):
        return torch.linalg.det(x @ x.transpose(1, 2))

def build():
    return Area()
"""


def test_the_line_of_the_users_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "area_model.py").write_text(DETERMINANT)
    model = Model(source="area_model:build", inputs={"x": InputSpec(shape=("batch", 3, 3))})
    export.export(model, tmp_path, tmp_path / "model.onnx")
    errors = preflight(tmp_path / "model.onnx", engine="tensorrt-rtx").errors
    assert [problem.operator for problem in errors] == ["Det"]
    assert errors[0].place.startswith("area_model.py:7 in forward")
    assert "area_model.py:7" in describe(errors[0])


def test_dynamic_height_and_width_cost(tmp_path: Path) -> None:
    shape: list[int | str] = ["n", 3, "h", "w"]
    node = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    path = save(tmp_path / "a.onnx", node, [value("x", shape)], [value("y", shape)])
    (problem,) = preflight(path, engine="tensorrt-rtx").problems
    assert problem.level == "warning"
    assert "h, w is dynamic beyond the batch" in problem.reason
    assert "slower" in problem.reason


@pytest.mark.parametrize(
    ("kind", "word"), [(TensorProto.INT64, "int64"), (TensorProto.DOUBLE, "float64"), (TensorProto.UINT8, "uint8")]
)
def test_awkward_inputs(tmp_path: Path, kind: int, word: str) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], "cast", to=TensorProto.FLOAT)]
    path = save(tmp_path / "a.onnx", nodes, [value("x", ["n", 3], kind)], [value("y", ["n", 3])])
    warnings = [
        problem.reason for problem in preflight(path, engine="tensorrt-rtx").problems if problem.level == "warning"
    ]
    assert any(f"input 'x' is {word}" in reason for reason in warnings)


def test_a_batch_that_the_export_froze(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], "mean", keepdims=1)]
    path = save(tmp_path / "a.onnx", nodes, [value("x", ["n", 3])], [value("y", [1, 1])])
    reasons = [problem.reason for problem in preflight(path, engine="tensorrt-rtx").problems]
    assert any("may have frozen the batch" in reason for reason in reasons)


def test_a_fixed_batch_is_a_note(tmp_path: Path) -> None:
    shape: list[int | str] = [2, 3, 8, 8]
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    path = save(tmp_path / "a.onnx", nodes, [value("x", shape)], [value("y", shape)])
    (problem,) = preflight(path, engine="tensorrt-rtx").problems
    assert (problem.level, "is fixed to batch 2" in problem.reason) == ("note", True)


def test_a_named_engine_that_is_not_installed_is_refused(troubled: Path) -> None:
    from edgeship.doctor import package_version

    if package_version("tensorrt") is None:
        with pytest.raises(MissingExtra):
            preflight(troubled, engine="tensorrt")
    else:
        assert preflight(troubled, engine="tensorrt").parser


def test_without_a_parser_nothing_is_claimed() -> None:
    require(Preflight(parser=None))


@pytest.fixture
def without_tensorrt(tmp_path: Path) -> dict[str, str]:
    """An environment with every installed package but TensorRT's: ``python -S`` finds what PYTHONPATH names alone."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if not entry.name.startswith("tensorrt"):
                (packages / entry.name).symlink_to(entry)
    source = Path(edgeship.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(source), str(packages)))}


def command(environment: dict[str, str], *arguments: object) -> Ended:
    return python("-S", "-m", "edgeship", *arguments, env=environment)


def test_without_any_tensorrt_it_says_that_the_parser_was_not_asked(
    troubled: Path, without_tensorrt: dict[str, str]
) -> None:
    done = command(without_tensorrt, "preflight", troubled, "--json")
    assert done.returncode == 0, done.stderr
    found = Preflight.model_validate_json(done.stdout)
    assert found.parser is None
    assert found.errors == (), "only the parser knows what it rejects"
    assert found.problems[-1].level == "note"
    assert found.problems[-1].reason.startswith("TensorRT's own parser was not asked: no TensorRT of any kind works")
    assert any("Foo of domain 'my.ops' is not a standard operator" in problem.reason for problem in found.problems)
    shown = command(without_tensorrt, "preflight", troubled)
    assert "asked     no parser of TensorRT" in shown.stdout
    assert "TensorRT's own parser was not asked" in " ".join(shown.stdout.split())
    assert "nothing to object to" not in shown.stdout


def test_without_any_tensorrt_a_named_engine_is_refused(troubled: Path, without_tensorrt: dict[str, str]) -> None:
    done = command(without_tensorrt, "preflight", troubled, "--engine", "tensorrt-rtx")
    assert done.returncode == 2, done.stdout
    assert "the engine 'tensorrt-rtx' needs the package 'tensorrt_rtx'" in done.stderr
    assert "pip install 'edgeship[rtx]'" in done.stderr


def test_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"hello world" * 20)
    with pytest.raises(ModelError):
        preflight(path)
    with pytest.raises(ModelError):
        preflight(tmp_path / "absent.onnx")


def test_what_the_parser_takes_and_no_kernel_builds_is_named(tmp_path: Path) -> None:
    numbers = {"most": [5], "k": [4000]}
    tensors = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in numbers.items()]
    nodes = [
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"], "nms"),
        helper.make_node("TopK", ["scores", "k"], ["best", "places"], "top"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [value("boxes", [1, 8400, 4]), value("scores", [1, 1, 8400])],
        [value("kept", ["n", 3], TensorProto.INT64), value("best", [1, 1, 4000])],
        tensors,
    )
    path = tmp_path / "head.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    errors = preflight(path, engine="tensorrt-rtx").errors
    assert [(problem.operator, problem.node) for problem in errors] == [("NonMaxSuppression", "nms"), ("TopK", "top")]
    assert errors[0].remedies[0].startswith("cut it off the graph")
    assert "evaluation.decoder" in errors[1].remedies[0]
    asked = preflight(path).problems
    assert {problem.level for problem in asked if problem.operator} == {"warning"}
