"""An ONNX file from outside is opened only when it is whole in itself and its operators are known."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeship.engines import OpenOptions, get
from edgeship.engines.onnx_policy import DOMAINS, check_bytes, check_file
from edgeship.errors import ModelError
from edgeship.files import sha256_file

Made = onnx.ModelProto


def outside(name: str = "w", location: str = "secret.bin") -> TensorProto:
    """A tensor that keeps its values in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])


def graph(*nodes: onnx.NodeProto, weights: list[TensorProto] | None = None) -> onnx.GraphProto:
    """x [4] → y [4]."""
    made = [numpy_helper.from_array(np.ones(4, np.float32), "w")] if weights is None else weights
    add = helper.make_node("Add", ["x", "w"], ["y"])
    return helper.make_graph(list(nodes) or [add], "g", [value("x")], [value("y")], made)


def model(made: onnx.GraphProto, **more: object) -> Made:
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, **more)


def marked_only() -> Made:
    """External data named, though the tensor does not say that it lies there."""
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.external_data.add(key="location", value="secret.bin")
    return model(graph(weights=[tensor]))


def in_branch() -> Made:
    inner = helper.make_graph([helper.make_node("Identity", ["v"], ["z"])], "b", [], [value("z")], [outside("v")])
    return model(graph(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)))


def of_domain(operator: str, domain: str) -> Made:
    return model(graph(helper.make_node(operator, ["x"], ["y"], domain=domain)))


def in_function() -> Made:
    node = helper.make_node("Constant", [], ["v"], value=outside("v"))
    inner = helper.make_function("mine", "f", [], ["v"], [node], [helper.make_opsetid("", 18)])
    return model(graph(helper.make_node("f", [], ["y"], domain="mine")), functions=[inner])


def in_sparse() -> Made:
    made = model(graph())
    values, indices = outside("s"), numpy_helper.from_array(np.arange(4), "s_indices")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))
    return made


def training() -> Made:
    made = model(graph())
    made.training_info.add().algorithm.CopyFrom(graph(weights=[outside()]))
    return made


HOSTILE: dict[str, tuple[Callable[[], Made], str]] = {
    "weight": (lambda: model(graph(weights=[outside()])), "tensor 'w' outside the file"),
    "weight by an absolute path": (lambda: model(graph(weights=[outside(location="/etc/passwd")])), "outside the file"),
    "weight in the process's memory": (
        lambda: model(graph(weights=[outside(location="*/_ORT_MEM_ADDR_/*")])),
        "outside the file",
    ),
    "named but not marked": (marked_only, "outside the file"),
    "constant": (lambda: model(graph(helper.make_node("Constant", [], ["y"], value=outside()))), "outside the file"),
    "in a branch": (in_branch, "tensor 'v' outside"),
    "in a function": (in_function, "tensor 'v' outside"),
    "in a sparse weight": (in_sparse, "tensor 's' outside"),
    "in a training graph": (training, "training graph"),
    "unknown domain": (lambda: of_domain("Run", "evil.com"), "'evil.com::Run'"),
    "cached context": (lambda: of_domain("EPContext", "com.microsoft"), "EPContext"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_leads_elsewhere_is_refused(tmp_path: Path, kind: str) -> None:
    made, words = HOSTILE[kind]
    data = made().SerializeToString()
    with pytest.raises(ModelError, match=words):
        check_bytes(data, "m.onnx")
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=words):
        check_file(tmp_path / "m.onnx")


def test_what_is_whole_passes() -> None:
    relu, opset = helper.make_node("Relu", ["x"], ["y"]), helper.make_opsetid("", 18)
    function = helper.make_function("mine", "f", ["x"], ["y"], [relu], [opset])
    own = model(graph(helper.make_node("f", ["x"], ["y"], domain="mine")), functions=[function])
    for made in (model(graph()), own, *(of_domain("Any", domain) for domain in sorted(DOMAINS))):
        check_bytes(made.SerializeToString(), "m.onnx")
    check_bytes(of_domain("Mine", "of.a.plugin").SerializeToString(), "m.onnx", plugins=True)


def test_other_formats_and_depths_are_refused() -> None:
    with pytest.raises(ModelError, match="own format"):
        check_bytes(b"\x08\x00\x00\x00ORTM" + bytes(64), "m.onnx")
    inner = graph()
    for _ in range(20):
        inner = graph(helper.make_node("Loop", ["n", "c"], ["y"], body=inner))
    with pytest.raises(ModelError, match="nests graphs too deeply"):
        check_bytes(model(inner).SerializeToString(), "m.onnx")


def test_a_file_of_very_many_parts_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeship.engines.onnx_policy.MAX_PARTS", 10_000)
    start = time.monotonic()
    with pytest.raises(ModelError, match="parts"):
        check_bytes(b"\x08\x01" * 1_000_000, "m.onnx")
    assert time.monotonic() - start < 5


def test_the_engine_of_a_bundle_is_checked_where_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "engine.onnx"
    path.write_bytes(model(graph(weights=[outside()])).SerializeToString())
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    with pytest.raises(ModelError, match="outside the file"):
        get("onnxruntime").open(path, OpenOptions(sha256=sha256_file(path)))


@pytest.mark.parametrize(
    ("tensor", "allowed"),
    [
        (outside(location="m.onnx.data"), True),
        (outside(location="other.bin"), False),
        (outside(location="../m.onnx.data"), False),
    ],
)
def test_one_file_beside_may_hold_weights_where_it_is_known(tensor: TensorProto, allowed: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(graph(weights=[tensor])).SerializeToString())
    with pytest.raises(ModelError, match="outside the file"):
        check_file(path)
    if allowed:
        check_file(path, beside="m.onnx.data")
    else:
        with pytest.raises(ModelError, match="outside the file"):
            check_file(path, beside="m.onnx.data")


def test_a_second_place_beside_the_known_one_is_refused(tmp_path: Path) -> None:
    tensor = outside(location="m.onnx.data")
    tensor.external_data.add(key="location", value="secret.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(model(graph(weights=[tensor])).SerializeToString())
    with pytest.raises(ModelError, match="outside the file"):
        check_file(path, beside="m.onnx.data")
