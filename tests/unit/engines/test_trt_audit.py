"""The audit: from the engine inspector's JSON and from a network's layers, and what it makes of them."""

from __future__ import annotations

import json

import pytest

from edgeship.engines.trt.audit import Layer, declared, is_kept, parse_inspector, summarize, type_in_text
from edgeship.errors import EngineError

REPORT = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to stem",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "images", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "r", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "ParameterType": "Reformat",
        },
        {
            "Name": "stem + relu",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [{"Name": "r", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Weights": {"Type": "Int8", "Count": 100},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
            "Metadata": "[ONNX Layer: /stem/Conv]\x1e[ONNX Layer: /stem/Relu]",
        },
        {
            "Name": "late",
            "LayerType": "CaskGemmConvolution",
            "ParameterType": "Convolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}],
            "TacticName": "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n",
            "Metadata": "[ONNX Layer: /late/Conv]",
        },
        {
            "Name": "head",
            "LayerType": "gemm",
            "Inputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
            "TacticName": "ampere_sgemm_32x128_nn",
            "Metadata": "[ONNX Layer: /head/MatMul]",
        },
        {"Name": "softmax", "LayerType": "SoftMax", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
    ],
    "Bindings": ["images", "logits"],
}
NODES = {"/stem/Conv": "Conv", "/stem/Relu": "Relu", "/late/Conv": "Conv", "/head/MatMul": "MatMul"}


def test_the_inspectors_report() -> None:
    layers = parse_inspector(json.dumps(REPORT), NODES)
    assert [(layer.name, layer.operator, layer.precision) for layer in layers if layer.operator] == [
        ("/stem/Conv", "Conv", "int8"),
        ("/late/Conv", "Conv", "fp16"),
        ("/head/MatMul", "MatMul", "fp32"),
    ]
    audit = summarize(layers, "int8", (), "engine")
    assert audit.achieved == pytest.approx(1 / 3)
    assert [(item.name, item.precision) for item in audit.missed] == [("/late/Conv", "fp16"), ("/head/MatMul", "fp32")]
    assert audit.reformats == 1
    assert audit.layers["Conv"] == {"fp16": 1, "int8": 1}


def test_kept_nodes_are_left_out_of_the_share() -> None:
    layers = parse_inspector(json.dumps(REPORT), NODES)
    audit = summarize(layers, "int8", ("/late/*", "op:MatMul"), "engine")
    assert audit.achieved == 1.0
    assert audit.kept == ("/late/Conv", "/head/MatMul")
    assert audit.missed == ()


def test_a_fused_layer_is_called_after_its_product_and_kept_by_any_of_its_nodes() -> None:
    """Q/DQ nodes come first in the metadata of a quantized layer."""
    report = {
        "Layers": [
            {
                "Name": "/w/DequantizeLinear + /head/Conv",
                "LayerType": "CaskConvolution",
                "ParameterType": "Convolution",
                "Inputs": [{"Format/Datatype": "Row major Int8 format"}],
                "Metadata": "[ONNX Layer: /w/DequantizeLinear]\x1e[ONNX Layer: /head/Conv]\x1e[ONNX Layer: /head/Relu]",
            }
        ]
    }
    nodes = {"/w/DequantizeLinear": "DequantizeLinear", "/head/Conv": "Conv", "/head/Relu": "Relu"}
    (layer,) = parse_inspector(json.dumps(report), nodes)
    assert layer.name == "/head/Conv"
    assert is_kept(layer, ("/head/Relu",))
    assert summarize([layer], "fp16", (), "engine").missed[0].name == "/head/Conv"
    kept = summarize([layer], "int8", ("/head/Conv",), "engine")
    assert kept.kept == ("/head/Conv",)
    assert "kept on request, yet they run in INT8: /head/Conv" in kept.notes


def test_the_network_does_not_tell_reformats() -> None:
    assert summarize([Layer("conv", "CONVOLUTION", "fp32", "Conv")], "fp32", (), "network").reformats is None


def test_asked_for_fp16_got_fp32_is_said() -> None:
    layers = [Layer(f"conv{index}", "CaskConvolution", "fp32", "Conv") for index in range(3)]
    audit = summarize(layers, "fp16", (), "engine")
    assert audit.achieved == 0.0
    assert "asked for fp16, got fp32 everywhere" in audit.notes


def test_a_network_without_products_says_so() -> None:
    audit = summarize([Layer("relu", "ACTIVATION", "fp32")], "int8", (), "network")
    assert audit.achieved is None and audit.arithmetic is None
    assert "nothing could be judged" in audit.notes[0]
    assert summarize([Layer("relu", "ACTIVATION", "fp32")], "fp32", (), "network").achieved == 1.0
    assert summarize([Layer("relu", "ACTIVATION", "fp16")], "fp32", (), "network").achieved is None


def test_names_alone_are_refused() -> None:
    with pytest.raises(EngineError, match="only the names of its layers"):
        parse_inspector(json.dumps({"Layers": ["conv1", "conv2"]}), {})
    with pytest.raises(EngineError, match="cannot be read"):
        parse_inspector("not JSON", {})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Row major linear FP32", "fp32"), ("Half NHWC8", "fp16"),
        ("Channel major FP16 format where channel % 4 == 0", "fp16"),
        ("Row major Int8 format", "int8"), ("sm80_xmma_gemm_bf16bf16_bf16f32", "bf16"), ("sm89_gemm_e4m3", "fp8"),
        ("trt_volta_h884cudnn_256x128", "fp16"), ("N/A due to dynamic shapes", ""), ("ampere_sgemm_32x128", "fp32"),
    ],
)  # fmt: skip
def test_types_in_the_words_of_formats_and_tactics(text: str, kind: str) -> None:
    assert type_in_text(text) == kind


def test_what_a_typed_network_asks_for() -> None:
    conv = Layer("a", "CONVOLUTION", "fp32", "Conv")
    half = Layer("b", "CONVOLUTION", "fp16", "Conv")
    whole = Layer("c", "CONVOLUTION", "int8", "Conv")
    assert declared([conv, conv, half]) == "fp32"
    assert declared([half, half, conv]) == "fp16"
    assert declared([whole, half]) == "int8-fp16"
    assert declared([whole, conv]) == "int8-fp32"


def test_keep_patterns() -> None:
    layer = Layer("/head/fc/Gemm", "MATRIX_MULTIPLY", "fp16", "MatMul")
    assert is_kept(layer, ("op:Gemm",))
    assert is_kept(layer, ("/head/*",))
    assert not is_kept(layer, ("op:Conv", "/stem/*"))
