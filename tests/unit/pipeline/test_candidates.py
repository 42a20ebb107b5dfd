"""The sizes that a target builds for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship.config import Batch, Candidates, Config, Model, Preprocess, ShapeRange, Target
from edgeship.config_file import load
from edgeship.errors import ConfigError, DataError
from edgeship.pipeline.candidates import candidates, may_be_tuned, rescued, sized, tuned, with_reduced_range
from edgeship.pipeline.planned import planned_names
from edgeship.results import Candidate, Identity, TensorInfo

IMAGES = TensorInfo(name="images", shape=("batch", 3, "height", "width"), dtype="float32")
FIXED = TensorInfo(name="images", shape=("batch", 3, 224, 224), dtype="float32")
TARGET = Target(batch=Batch(min=1, opt=4, max=8))


def test_dynamic_axes_take_the_size_that_calibration_and_the_vehicle_use() -> None:
    found = sized(TARGET, (IMAGES,), Preprocess(size=(480, 640)))
    expected = ShapeRange(min=(1, 3, 480, 640), opt=(4, 3, 480, 640), max=(8, 3, 480, 640))
    assert found.shapes == {"images": expected}


def test_a_range_of_the_config_stays_as_it_is() -> None:
    given = ShapeRange(min=(1, 3, 64, 64), opt=(1, 3, 96, 96), max=(1, 3, 128, 128))
    target = Target(shapes={"images": given})
    assert sized(target, (IMAGES,), Preprocess(size=(480, 640))) == target


def test_a_model_of_fixed_sizes_needs_no_range() -> None:
    assert sized(TARGET, (FIXED,), None) == TARGET


@pytest.mark.parametrize("preprocess", [None, Preprocess()])
def test_a_size_that_nothing_tells_is_asked_for(preprocess: Preprocess | None) -> None:
    with pytest.raises(DataError, match="dynamic axes beside the batch") as caught:
        sized(TARGET, (IMAGES,), preprocess)
    assert "preprocess.size" in str(caught.value) and "target.shapes.images" in str(caught.value)


def test_every_repair_is_a_candidate_that_keeps_what_all_int8_keeps(tmp_path: Path) -> None:
    (tmp_path / "edgeship.toml").write_text(
        '[model]\nsource = "m:build"\n[preprocess]\nfit = "stretch"\n[calibration]\nimages = "calib/"\n'
        '[quantization]\nkeep = ["first"]\n[candidates]\nrepair = ["equalize", "equalize+adaround"]\n'
    )
    config = load(tmp_path / "edgeship.toml")
    found = candidates(config)[2:]
    assert [(item.name, item.precision, item.keep, item.repair) for item in found] == [
        ("int8-equalize", "int8", ("first",), ("equalize",)),
        ("int8-equalize+adaround", "int8", ("first",), ("equalize", "adaround")),
    ]
    assert "repair:onnxruntime:equalize+adaround" in planned_names(config, ())


def test_a_repair_is_made_once_for_each_way_of_rounding(tmp_path: Path) -> None:
    (tmp_path / "edgeship.toml").write_text(
        '[model]\nsource = "m:build"\n[preprocess]\nfit = "stretch"\n[calibration]\nimages = "calib/"\n'
        '[candidates]\nrepair = ["adaround"]\n[targets.desk]\nengine = "onnxruntime"\n'
        '[targets.other]\nengine = "openvino"\n[targets.car]\nengine = "tensorrt"\ndevice = "cuda:0"\n'
    )
    names = planned_names(load(tmp_path / "edgeship.toml"), ())
    made = [name for name in names if name.startswith("repair:")]
    assert made == ["repair:onnxruntime:adaround", "repair:tensorrt:adaround"]


@pytest.mark.parametrize(
    ("repair", "words"),
    [
        ('["equalise"]', "'equalise': write equalize, smooth, bias-correct, adaround"),
        ('["adaround+adaround"]', "each once"),
    ],
)
def test_a_repair_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path, repair: str, words: str) -> None:
    (tmp_path / "edgeship.toml").write_text(f'[model]\nsource = "m:build"\n[candidates]\nrepair = {repair}\n')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "edgeship.toml")
    assert words in str(caught.value)


def test_a_repair_needs_frames_and_not_only_ranges(tmp_path: Path) -> None:
    (tmp_path / "edgeship.toml").write_text(
        '[model]\nsource = "m:build"\n[calibration]\ncache = "a.cache"\n[candidates]\nrepair = ["adaround"]\n'
    )
    with pytest.raises(ConfigError, match=r"candidates\.repair looks at frames"):
        load(tmp_path / "edgeship.toml")


INT8 = Candidate(name="int8", precision="int8", keep=("op:Softmax",))


@pytest.mark.parametrize(
    ("wanted", "flags", "candidate", "target", "tried"),
    [
        (None, ("avx2",), INT8, TARGET, True),
        (None, ("avx2", "avx512_vnni"), INT8, TARGET, False),
        (None, ("sse4_1",), INT8, TARGET, False),
        (True, ("avx512_vnni",), INT8, TARGET, True),
        (False, ("avx2",), INT8, TARGET, False),
        (True, ("avx2",), Candidate(name="fp32", precision="fp32"), TARGET, False),
        (True, ("avx2",), INT8.model_copy(update={"trained": True}), TARGET, False),
        (True, ("avx2",), INT8, Target(device="cuda:0"), False),
        (True, ("avx2",), INT8, Target(engine="openvino"), False),
    ],
)
def test_seven_bits_are_tried_where_eight_saturate_or_are_asked_for(
    wanted: bool | None, flags: tuple[str, ...], candidate: Candidate, target: Target, tried: bool
) -> None:
    config = Config(model=Model(source="m.onnx"), candidates=Candidates(reduced_range=wanted))
    built = Identity(engine="onnxruntime", version="1", device="", platform="x86_64-linux", instruction_sets=flags)
    found = with_reduced_range(config, candidate, target, built)
    named = {"name": "int8-reduced-range", "reduced_range": True}
    assert found == (candidate.model_copy(update=named) if tried else None)
    assert with_reduced_range(config, candidate, target, None) == (found if wanted else None)


def test_fp16_that_needs_nodes_in_fp32_is_tried_with_them() -> None:
    half = Candidate(name="fp16", precision="fp16", keep=("head",))
    assert rescued(half, ()) is None
    assert rescued(half, ("head", "norm")) == Candidate(name="fp16-keep", precision="fp16", keep=("head", "norm"))
    assert rescued(INT8, ("norm",)) is None


def test_placement_by_latency_is_for_plain_int8_on_tensorrt_here() -> None:
    config = Config(model=Model(source="m.onnx"), candidates=Candidates(autotune_s=60.0))
    plain, here = Candidate(name="int8", precision="int8"), Target(engine="tensorrt", device="cuda:0")
    assert may_be_tuned(config, plain, here)
    assert not may_be_tuned(config, plain, here.model_copy(update={"host": "nvidia@orin"}))
    assert not may_be_tuned(config, plain, Target())
    assert not may_be_tuned(config, plain.model_copy(update={"trained": True}), here)
    assert not may_be_tuned(config.model_copy(update={"candidates": Candidates()}), plain, here)


def test_what_autotune_leaves_in_float_is_kept_beside_what_all_int8_keeps() -> None:
    plain = Candidate(name="int8", precision="int8", keep=("head.*",))
    found = tuned(plain, ("conv2",), 5)
    assert found is not None
    assert (found.name, found.precision, found.keep) == ("int8-autotune", "int8", ("head.*", "conv2"))
    assert tuned(plain, (), 5) is None, "that is plain INT8"
    assert tuned(plain, ("a", "b"), 2) is None, "nothing is left to quantize"
