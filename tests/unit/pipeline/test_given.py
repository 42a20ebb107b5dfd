"""A model that is quantized already ships as it is, and is neither quantized twice nor called FP32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgeship.config import Candidates, Config, InputSpec, Target
from edgeship.engines.onnx_file import ONE_FILE
from edgeship.errors import ConfigError
from edgeship.pipeline.candidates import (
    candidates,
    converted,
    needs_calibration,
    require_one_file,
    require_possible,
    resolved_precision,
)
from edgeship.prepare import export, model
from edgeship.prepare.graph import save_onnx
from edgeship.prepare.slim import Options, slim


def config(*precisions: str, search: bool = False) -> Config:
    chosen = Candidates(precisions=precisions, search=search)  # type: ignore[arg-type]
    return Config.model_construct(
        candidates=chosen,
        quantization=Config.model_fields["quantization"].get_default(call_default_factory=True),
        file=None,
    )


def test_as_given_needs_no_conversion_and_no_ranges() -> None:
    (given,) = candidates(config("as-given"))
    assert not converted(given)
    assert not needs_calibration(given)
    for engine in ("onnxruntime", "tensorrt"):
        assert resolved_precision("as-given", Target(engine=engine)) == "int8-fp32"  # type: ignore[arg-type]
        assert resolved_precision("as-given", Target(engine=engine), half=True) == "int8-fp16"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "operators", "words"),
    [
        (config("fp32", "int8"), {"Conv", "QuantizeLinear", "DequantizeLinear"}, "quantized already"),
        (config("fp32"), {"QLinearConv"}, "QLinearConv"),
        (config("as-given", search=True), {"DequantizeLinear"}, "search = false"),
        (config("fp32", "as-given"), {"Conv"}, "as-given is for models that are quantized"),
    ],
)
def test_what_cannot_be_is_refused(asked: Config, operators: set[str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_possible(asked, operators, "model.onnx")
    assert words in str(refused.value)


def test_a_model_beyond_one_file_is_refused_before_anything_long() -> None:
    few = config("fp32", "int8")
    require_one_file(few, ONE_FILE)
    with pytest.raises(
        ConfigError, match=r"2\.0 GiB of weights, and an engine of onnxruntime is one ONNX file"
    ) as refused:
        require_one_file(few, ONE_FILE + 1)
    assert "engine = 'tensorrt'" in (refused.value.do or "")
    require_one_file(few.model_copy(update={"target": Target(engine="tensorrt")}), ONE_FILE + 1)


def test_what_can_be_passes() -> None:
    require_possible(config("as-given"), {"Conv", "QuantizeLinear"}, "model.onnx")
    require_possible(config("fp32", "int8"), {"Conv", "Relu"}, "model.onnx")


class Converted(nn.Module):
    """What PT2E leaves: integer weights with a scale for each channel, and pairs around activations."""

    def __init__(self) -> None:
        super().__init__()
        import torch.ao.quantization.fx._decomposed  # registers the operators

        self.register_buffer("weight", torch.randint(-127, 128, (4, 3, 3, 3), dtype=torch.int8))
        self.register_buffer("scales", torch.full((4,), 0.01))
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.int64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        ops: Any = torch.ops.quantized_decomposed
        told = (0.02, 3, -128, 127, torch.int8)
        given = ops.dequantize_per_tensor(ops.quantize_per_tensor(images, *told), *told)
        weight = ops.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -127, 127, torch.int8)
        return nn.functional.conv2d(given, weight).mean(dim=(2, 3))


def clipped() -> onnx.ModelProto:
    """What Brevitas writes: a clip between the pair of a range that is narrower than the type."""
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"]),
        helper.make_node("Clip", ["q", "low", "high"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        helper.make_node("Conv", ["d", "v"], ["output"]),
    ]
    values = {
        "s": np.float32(0.02), "z": np.int8(0), "low": np.int8(-8), "high": np.int8(7),
        "w": np.ones((4, 3, 3, 3), np.int8),
    }  # fmt: skip
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    ends = [
        helper.make_tensor_value_info(name, 1, shape)
        for name, shape in (("images", ["n", 3, 8, 8]), ("output", ["n", 4, 6, 6]))
    ]
    graph = helper.make_graph(nodes, "given", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("tool", [pytest.param("torchao", marks=pytest.mark.slow), "brevitas"])
def test_what_other_tools_trained_keeps_its_pairs_and_scales(tool: str, tmp_path: Path) -> None:
    if tool == "torchao":
        loaded = model.Loaded(Converted().eval(), {"images": InputSpec(shape=("batch", 3, 8, 8))})
        made, _, _ = export.to_onnx(loaded, loaded.noise({"images": (2, 3, 8, 8)}, 0), ["output"], 18)
    else:
        made = clipped()
    save_onnx(made, tmp_path / "given.onnx")
    slim(tmp_path / "given.onnx", tmp_path / "slim.onnx", Options())
    slimmed = onnx.load(tmp_path / "slim.onnx")
    operators = {node.op_type for node in slimmed.graph.node}
    require_possible(config("as-given"), operators, "given.onnx")
    with pytest.raises(ConfigError, match="quantized already"):
        require_possible(config("fp32", "int8"), operators, "given.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    scales = [numpy_helper.to_array(item) for item in slimmed.graph.initializer if item.data_type == 1]
    assert any(np.isclose(scale, 0.02).all() for scale in scales)
