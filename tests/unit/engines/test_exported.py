"""Layers from trtexec's exports and onnxruntime's profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trtexec_exports as exports

from edgeship.engines.exported import read_layers
from edgeship.errors import ArtifactError, EngineError


def test_layers_keep_their_order_types_and_times(tmp_path: Path) -> None:
    found = read_layers(exports.write("int8", tmp_path))
    assert (found.title, len(found.layers), found.source) == ("net_int8", 8, "trtexec's layer information and profile")
    first, conv, pool, reformat, quantize = found.layers[:5]
    roles = [layer.role for layer in (first, conv, pool, reformat, quantize)]
    assert roles == ["quantize", "product", "other", "reformat", "quantize"]
    assert (conv.kind, conv.precision, conv.output, conv.detail) == ("Conv", "int8", "fp32", "7×7, 64 maps, stride 2")
    assert conv.nodes == ("stem.weight", "quantize_1", "stem_q")
    assert (pool.precision, pool.output, pool.nodes) == ("fp32", "fp32", ("pool_q",))
    assert (reformat.precision, reformat.output, reformat.nodes) == ("fp32", "fp16", ())
    assert conv.ms == 0.2
    assert sum(layer.ms or 0 for layer in found.layers) == pytest.approx(0.48)


def test_without_a_profile_there_are_no_times(tmp_path: Path) -> None:
    found = read_layers(exports.write("fp16", tmp_path, profile=False))
    assert len(found.layers) == 7 and all(layer.ms is None for layer in found.layers)
    assert {layer.precision for layer in found.layers if layer.role == "product"} == {"fp16"}
    assert [layer.role for layer in found.layers].count("reformat") == 2


def test_a_profile_may_stand_anywhere_and_times_give_the_whole(tmp_path: Path) -> None:
    graph = exports.write("fp16", tmp_path / "a")
    profile = (tmp_path / "a" / "net_fp16_profile.json").rename(tmp_path / "p.json")
    times = tmp_path / "t.json"
    times.write_text(json.dumps([{"computeMs": ms, "latencyMs": ms + 1} for ms in (0.9, 0.86, 0.88)]))
    found = read_layers(graph, profile, times)
    assert found.whole_ms == 0.88 and found.layers[0].ms == 0.08


def test_layers_of_one_name_take_their_times_in_order(tmp_path: Path) -> None:
    rows = [exports.layer((f"c{n % 2}", exports.CONV, "i8", "i8", 3, 8, 1, 0.0)) for n in range(4)]
    graph, profile = tmp_path / "layers.json", tmp_path / "profile.json"
    graph.write_text(json.dumps({"Layers": rows}))
    profile.write_text(json.dumps([{"name": f"c{n % 2}", "averageMs": n + 1.0} for n in range(4)]))
    assert [layer.ms for layer in read_layers(graph).layers] == [1.0, 2.0, 3.0, 4.0]


def test_ten_real_engines_are_read_where_their_reports_are() -> None:
    """ResNets and MobileNets in FP32, FP16 and INT8, of an A100 and an RTX 3090."""
    found = {graph.name.removesuffix("__graph.json"): graph for graph in sorted(exports.REAL.glob("*__graph.json"))}
    assert len(found) == (10 if exports.REAL.is_dir() else 0)
    for name, graph in found.items():
        engine = read_layers(graph)
        products = [layer for layer in engine.layers if layer.role == "product"]
        assert len(products) == (21 if "pytorch" in name else 54 if "tensorflow" in name else 53), name
        wanted = "fp32" if "fp32" in name else "fp16" if "fp16" in name else "int8"
        assert {layer.precision for layer in products} == {wanted}, name
        assert all(layer.ms is not None and layer.detail for layer in products), name
        told = json.loads(graph.with_name(f"{name}__profile.json").read_text())
        assert sum(layer.ms or 0 for layer in engine.layers) == pytest.approx(
            sum(row["medianMs"] for row in told if "name" in row)
        )
        quantizes = sum(layer.role == "quantize" for layer in engine.layers)
        assert (quantizes > 0) is (wanted == "int8"), name
        whole = graph.with_name(f"{name}__timing.json")
        assert (engine.whole_ms is not None) is whole.is_file(), name
        if engine.whole_ms is not None:
            summary = json.loads(graph.with_name(f"{name}__profile.metadata.json").read_text())["performance_summary"]
            assert engine.whole_ms == pytest.approx(summary["GPU Compute Time"][3], rel=1e-3), name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"build_options": {}}, "cannot be read"),
        ({"Layers": ["Conv_0", "Conv_1"]}, "only the names of its layers"),
        ({"Layers": []}, "names no layer"),
        ([{"count": 1}, {"name": "Conv_0", "averageMs": 1.0}], "a list without a node that ran"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, value: Any, words: str) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(value))
    with pytest.raises((ArtifactError, EngineError), match=words):
        read_layers(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"name": "Conv_99", "averageMs": 1.0}]', "names no layer of the engine"),
        ('[{"name": "stem + act", "averageMs": "soon"}]', "has no time"),
        ('{"Layers": []}', "is not a profile"),
        ("not json", "is not JSON"),
    ],
)
def test_a_profile_of_another_engine_is_refused(tmp_path: Path, text: str, words: str) -> None:
    graph = exports.write("fp16", tmp_path, profile=False)
    profile = tmp_path / "other.json"
    profile.write_text(text)
    with pytest.raises(ArtifactError, match=words):
        read_layers(graph, profile)
    with pytest.raises(ArtifactError, match="does not exist"):
        read_layers(tmp_path / "gone.json")


def test_onnxruntimes_profile_gives_layers_too(tmp_path: Path) -> None:
    def event(index: int, name: str, operator: str, kind: str, micros: int) -> dict[str, Any]:
        types = [{kind: [1, 8]}]
        facts = {"op_name": operator, "node_index": str(index), "provider": "CPUExecutionProvider"}
        facts |= {"input_type_shape": types, "output_type_shape": [{"float": [1, 8]}]}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros, "args": facts}

    path = tmp_path / "profile_1.json"
    path.write_text(json.dumps([
        event(0, "q", "QuantizeLinear", "float", 10), event(1, "conv", "QLinearConv", "uint8", 200),
        event(2, "r", "ReorderOutput", "float", 5), event(3, "relu", "Relu", "float", 20),
    ]))  # fmt: skip
    found = read_layers(path)
    assert [(layer.kind, layer.role, layer.precision, layer.ms) for layer in found.layers] == [
        ("QuantizeLinear", "quantize", "fp32", 0.01), ("QLinearConv", "product", "int8", 0.2),
        ("ReorderOutput", "reformat", "fp32", 0.005), ("Relu", "other", "fp32", 0.02),
    ]  # fmt: skip
