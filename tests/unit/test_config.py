"""edgeship.toml: every problem at once, with the nearest valid word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeship.config import Config, Preprocess
from edgeship.config_file import load
from edgeship.errors import ConfigError, UserInputError

MINIMAL = '[model]\nsource = "model:build"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "edgeship.toml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text))
    return caught.value.problems


def test_all_problems_at_once_with_a_guess(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        '[model]\nsource = "m:f"\nweigths = "x"\n'
        '[target]\nengine = "onnxruntme"\n[gate]\nlatency_p99 = 3\n[calibratoin]\n',
    )
    text = "\n".join(found)
    assert len(found) == 4
    assert "model.weigths: unknown key; did you mean 'weights'?" in found
    assert "did you mean 'onnxruntime'?" in text
    assert "gate.latency_p99: unknown key; did you mean 'latency_p99_ms'?" in found
    assert "calibratoin: unknown key; did you mean 'calibration'?" in found


def test_key_of_an_input_is_guessed(tmp_path: Path) -> None:
    found = problems(tmp_path, MINIMAL + '[model.inputs.images]\nshpae = [1, 3]\nshape = ["batch", 3]\n')
    assert found == ("model.inputs.images.shpae: unknown key; did you mean 'shape'?",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[target]\nbatch = { min = 4, opt = 2, max = 8 }\n", "min <= opt <= max"),
        ("[model.inputs.x]\nshape = [0, 3]\n", "axis 0"),
        ('[preprocess]\ncolor = "gray"\nmean = [1, 2, 3]\n', "mean has 3 values"),
        ("[gate]\nlatency_p99_ms = nan\n", "finite"),
        ("[gate]\nmin = 0.9\n", "gate.min: should be a table, found 0.9"),
        ('[track]\nregister_as = "x"\n', "track.register_as: no tracker is named that would be told"),
    ],
)
def test_wrong_values_say_what_is_right(tmp_path: Path, text: str, words: str) -> None:
    fp32 = '[candidates]\nprecisions = ["fp32"]\n'
    assert any(words in item for item in problems(tmp_path, MINIMAL + fp32 + text))


def test_contradicting_budgets_are_refused(tmp_path: Path) -> None:
    text = MINIMAL + '[candidates]\nprecisions = ["fp32"]\n[gate]\nlatency_p50_ms = 9.0\nlatency_p99_ms = 3.0\n'
    assert "contradict" in problems(tmp_path, text)[0]


def test_int8_without_frames_is_refused(tmp_path: Path) -> None:
    assert "never used" in problems(tmp_path, MINIMAL)[0]


def test_a_gpu_engine_on_the_processor_is_refused(tmp_path: Path) -> None:
    assert "target.device: tensorrt runs on a GPU, found 'cpu'; use \"cuda:0\"" in problems(
        tmp_path, MINIMAL + '[target]\nengine = "tensorrt"\n'
    )


def test_gate_on_accuracy_needs_labelled_images(tmp_path: Path) -> None:
    text = MINIMAL + '[candidates]\nprecisions = ["fp32"]\n[gate]\nmax_drop = { top1 = 0.01 }\n'
    assert "evaluation.images: missing" in problems(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (
            '[benchmark]\nbaseline = ["eager-fp16"]',
            "benchmark.baseline: eager-fp16 does not run on cpu; use eager,",
        ),
        ('[benchmark]\nbaseline = ["compiled"]', "did you mean 'compile'?"),
        ('[target]\nhost = "me@orin"\n[benchmark]\nbaseline = ["eager"]', "every target names a host"),
    ],
)
def test_a_baseline_that_no_target_runs_is_refused(tmp_path: Path, rest: str, words: str) -> None:
    text = f'{MINIMAL}[candidates]\nprecisions = ["fp32"]\n{rest}\n'
    assert words in "\n".join(problems(tmp_path, text))


def test_a_baseline_of_an_onnx_file_is_refused(tmp_path: Path) -> None:
    text = '[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["fp32"]\n[benchmark]\nbaseline = ["eager"]\n'
    (found,) = problems(tmp_path, text)
    assert found.startswith("benchmark.baseline: model.source is m.onnx")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = '[model]\nsource = "nets/a.onnx"\n[preprocess]\n[calibration]\nimages = "calib/"\n'
    config = load(write(tmp_path, text + '[evaluation]\nimages = "data:scenes"\n'))
    assert config.calibration.images == tmp_path / "calib"
    assert config.model.source == str(tmp_path / "nets/a.onnx")
    assert str(config.evaluation.images) == "data:scenes"
    assert config.root == tmp_path


def test_absent_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="no config file"):
        load(tmp_path / "none.toml")
    with pytest.raises(UserInputError, match="not valid TOML"):
        load(write(tmp_path, "[model\n"))


def test_config_is_frozen(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL + '[candidates]\nprecisions = ["fp32"]\n'))
    with pytest.raises(ValueError, match="frozen"):
        config.model = Config.model_fields["model"]  # type: ignore[assignment, misc]


@pytest.mark.parametrize("name", ["../../../evil", "a/b", "", ".hidden", "a b", "x\\\\y"])
def test_target_names_stay_in_the_work_folder(tmp_path: Path, name: str) -> None:
    found = problems(tmp_path, MINIMAL + f'[targets."{name}"]\nengine = "onnxruntime"\n')
    assert any("the target name" in item for item in found), found


def test_the_file_is_known_and_cannot_be_set(tmp_path: Path) -> None:
    path = tmp_path / "fast.toml"
    path.write_text(MINIMAL + '[candidates]\nprecisions = ["fp32"]\n[targets.orin-1]\nengine = "onnxruntime"\n')
    assert load(path).file == path.resolve()
    assert "file: unknown key" in problems(tmp_path, 'file = "x"\n' + MINIMAL)


def test_changes_replace_settings_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edgeship.toml"
    path.write_text("\ufeff" + MINIMAL)
    changes = [
        "gate.max_drop.top1=0.02",
        "evaluation.images=val",
        'candidates.precisions=["fp32"]',
        "target.device=cpu",
    ]
    found = load(tmp_path, changes)  # the folder stands for the file in it
    assert found.gate.max_drop == {"top1": 0.02}
    assert found.candidates.precisions == ("fp32",)
    assert found.evaluation.images == tmp_path / "val"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("gate", "is not key=value"),
        ("=1", "is not key=value"),
        ("gate..p=1", "is not key=value"),
        ("gate.latency_p50_m=1", "did you mean 'latency_p50_ms'"),
        ("model.source.x=1", "source is not a table"),
    ],
)
def test_a_wrong_change_is_refused(tmp_path: Path, change: str, words: str) -> None:
    (tmp_path / "edgeship.toml").write_text(MINIMAL)
    with pytest.raises(UserInputError, match=re.escape(words)):
        load(tmp_path / "edgeship.toml", [change])


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"is a folder without edgeship\.toml"):
        load(tmp_path)


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / "edgeship.toml").write_text(MINIMAL)
    found = load(tmp_path, ["model.source=~/model.onnx", "evaluation.images=~/val", 'candidates.precisions=["fp32"]'])
    assert found.model.source == str(Path.home() / "model.onnx")
    assert found.evaluation.images == Path.home() / "val"


def test_limits_in_percent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "edgeship.toml").write_text(MINIMAL)
    with pytest.raises(ConfigError) as refused:
        load(
            tmp_path, ["evaluation.images=val", "calibration.npz=c.npz", "gate.max_drop.top1=1", "gate.critical.red=2"]
        )
    assert len(refused.value.problems) == 2
    assert "limits are fractions of 1" in refused.value.problems[0]
    assert "2 points are 0.02" in refused.value.problems[1]


@pytest.mark.parametrize("table", ["target", "parity", "calibration"])
@pytest.mark.parametrize("device", ["igpu", "cuda:first", "CPU", "cuda:0,1", ""])
def test_a_device_that_is_none_is_refused(tmp_path: Path, table: str, device: str) -> None:
    path = tmp_path / "edgeship.toml"
    path.write_text(
        f'[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["fp32"]\n[{table}]\ndevice = "{device}"\n'
    )
    with pytest.raises(ConfigError, match=rf'{table}\.device: is not a device; use "cpu", or "cuda:0"'):
        load(path)


@pytest.mark.parametrize(
    ("target", "precisions", "said"),
    [
        ('engine = "openvino"', '["fp32", "int8"]', 'no target has engine = "tensorrt" without a host'),
        (
            'engine = "tensorrt"\ndevice = "cuda:0"\nhost = "a@b"',
            '["int8"]',
            "ModelOpt measures with TensorRT on this machine",
        ),
        ('engine = "tensorrt"\ndevice = "cuda:0"', '["fp16"]', 'the placement is that of "int8"'),
    ],
)
def test_a_budget_that_autotune_cannot_spend_is_refused(
    tmp_path: Path, target: str, precisions: str, said: str
) -> None:
    path = tmp_path / "edgeship.toml"
    path.write_text(
        f'[model]\nsource = "m.onnx"\n[candidates]\nprecisions = {precisions}\nautotune_s = 60\n'
        f'[calibration]\nimages = "."\n[target]\n{target}\n'
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(path)


@pytest.mark.parametrize(
    ("engine", "device", "precision", "said"),
    [
        ("openvino", "cuda:0", "fp32", 'openvino runs on "cpu", Intel\'s "gpu" and "npu"'),
        ("onnxruntime", "npu", "fp32", "'npu' is OpenVINO's; use engine = \"openvino\""),
        ("tensorrt", "gpu", "fp32", "tensorrt runs on a GPU, found 'gpu'"),
        ("onnxruntime", "cpu", "bf16", "bf16 is OpenVINO's, target.engine is onnxruntime; use fp16"),
        ("openvino", "cpu", "implicit", "implicit is TensorRT 10's, target.engine is openvino; use int8"),
    ],
)
def test_what_an_engine_does_not_have_is_refused(
    tmp_path: Path, engine: str, device: str, precision: str, said: str
) -> None:
    path = tmp_path / "edgeship.toml"
    path.write_text(
        f'[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["{precision}"]\n[calibration]\nimages = "."\n'
        f'[target]\nengine = "{engine}"\ndevice = "{device}"\n'
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(path)


@pytest.mark.parametrize("device", ["cpu", "gpu", "gpu:1", "npu"])
def test_devices_of_openvino(tmp_path: Path, device: str) -> None:
    path = tmp_path / "edgeship.toml"
    path.write_text(
        '[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["bf16"]\n'
        f'[target]\nengine = "openvino"\ndevice = "{device}"\n'
    )
    assert load(path).target.device == device


def test_equal_preprocessing_is_equal_however_it_is_written() -> None:
    three, one = (Preprocess(mean=(127,) * count, std=(128.0,) * count) for count in (3, 1))
    assert three == one
    assert three.model_dump() == one.model_dump()
    assert Preprocess(mean=(1, 2, 3)).mean == (1.0, 2.0, 3.0)
