"""A model that is quantized already ships as it is, and is neither quantized twice nor called FP32."""

from __future__ import annotations

import pytest

from edgeship.config import Candidates, Config, Target
from edgeship.errors import ConfigError
from edgeship.pipeline.candidates import candidates, converted, needs_calibration, require_possible, resolved_precision


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


def test_what_can_be_passes() -> None:
    require_possible(config("as-given"), {"Conv", "QuantizeLinear"}, "model.onnx")
    require_possible(config("fp32", "int8"), {"Conv", "Relu"}, "model.onnx")
