"""Export: names read back, dynamic axes only where named, refusals that say what to do."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file

from edgeship.config import Model, Preprocess
from edgeship.errors import ExportError, ModelError
from edgeship.prepare import graph
from edgeship.prepare.export import STRICT, export, to_onnx
from edgeship.prepare.export_errors import require_opset, translation_error
from edgeship.prepare.model import Loaded
from edgeship.prepare.running import Running

HERE = Path(__file__).parent
IMAGES = {"images": {"shape": ["batch", 3, 16, 16]}}


def settings(name: str, inputs: dict[str, object] | None = None, **more: object) -> Model:
    return Model.model_validate({"source": f"networks:{name}", "inputs": inputs or IMAGES, **more})


def test_several_inputs_and_nested_outputs(tmp_path: Path) -> None:
    inputs = {"extra": {"shape": ["batch", 8]}, "image": {"shape": ["batch", 3, 16, 16]}}
    result = export(settings("TwoInputs", inputs), HERE, tmp_path / "model.onnx")
    assert [(item.name, item.shape) for item in result.inputs] == [
        ("image", ("batch", 3, 16, 16)),
        ("extra", ("batch", 8)),
    ]
    assert [item.name for item in result.outputs] == ["logits", "aux_0", "aux_1"]
    assert {item.shape[0] for item in result.outputs} == {"batch"}
    assert result.opset >= 18
    assert result.parameters == 3 * 8 * 9 + 8 + 16 + 8 * 5 + 5
    proto = onnx.load(tmp_path / "model.onnx")
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    assert graph.place(conv).startswith("networks.py:")


def test_a_fixed_axis_stays_fixed(tmp_path: Path) -> None:
    result = export(settings("Small", {"images": {"shape": [1, 3, 16, 16]}}), HERE, tmp_path / "model.onnx")
    assert result.inputs[0].shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("Frozen", ExportError, "froze the axis 'batch'"),
        ("Branching", ExportError, "networks.py"),
        ("Untranslatable", ExportError, "airy_ai"),
        ("NotFinite", ModelError, "NaN or infinite"),
        ("not_a_module", ModelError, "returned dict"),
        ("raises", ModelError, "backbone.yaml"),
        ("absent", ModelError, "no callable 'absent'"),
    ],
)
def test_refusals_name_the_cause(tmp_path: Path, name: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        export(settings(name), HERE, tmp_path / "model.onnx")
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_remedies_stand_in_the_articles_order(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(settings("Untranslatable"), HERE, tmp_path / "model.onnx")
    text = str(caught.value)
    assert text.index("rewrite the layer") < text.index("postprocessing") < text.index("plugin")


def test_a_module_that_does_not_import(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not import"):
        export(Model.model_validate({"source": "nowhere:build", "inputs": IMAGES}), HERE, tmp_path / "model.onnx")


def test_a_shape_that_the_model_rejects(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"rejects its inputs \(images \[2, 4, 16, 16\]"):
        export(settings("Small", {"images": {"shape": ["batch", 4, 16, 16]}}), HERE, tmp_path / "model.onnx")


def test_weights_from_safetensors_and_a_nested_checkpoint(tmp_path: Path) -> None:
    import networks

    torch.manual_seed(7)
    state = networks.Small().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"ema": {"state": state}, "epoch": 3}, tmp_path / "w.pt")
    places = {}
    for name, more in {
        "a": {"weights": tmp_path / "w.safetensors"},
        "b": {"weights": tmp_path / "w.pt", "weights_key": "ema.state"},
    }.items():
        (tmp_path / name).mkdir()
        export(settings("Small", **more), HERE, tmp_path / name / "model.onnx")
        proto = onnx.load(tmp_path / name / "model.onnx")
        places[name] = {item.name: item.raw_data for item in proto.graph.initializer}
    assert places["a"] == places["b"]
    assert places["a"]["head.weight"] == state["head.weight"].numpy().tobytes()


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    import networks

    save_file(networks.Small(16).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"conv.weight: \(16, 3, 3, 3\) in the file, \(8, 3, 3, 3\) in the model"):
        export(settings("Small", weights=tmp_path / "w.safetensors"), HERE, tmp_path / "model.onnx")


class Bomb:
    """A pickle that wants to execute."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.mark,))


def test_a_pickle_that_wants_to_execute_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    torch.save({"conv.weight": Bomb(mark)}, tmp_path / "w.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(mark)))
    for name in ("w.pt", "raw.pt"):
        with pytest.raises(ModelError, match=r"could run code|not a readable checkpoint"):
            export(settings("Small", weights=tmp_path / name), HERE, tmp_path / "model.onnx")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_pt2_round_trip_and_a_pt2_that_wants_to_execute(tmp_path: Path) -> None:
    import zipfile

    import networks

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(networks.Small().eval(), (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "small.pt2")
    result = export(Model(source=str(tmp_path / "small.pt2")), HERE, tmp_path / "model.onnx")
    assert result.inputs[0].shape == ("batch", 3, 16, 16)

    mark = tmp_path / "executed"
    torch.save(Bomb(mark), tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "small.pt2") as old, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new:
        for name in old.namelist():
            bomb = "/sample_inputs/" in name
            new.writestr(name, (tmp_path / "bomb.pt").read_bytes() if bomb else old.read(name))
    with pytest.raises(ModelError, match="could run code"):
        export(Model(source=str(tmp_path / "evil.pt2")), HERE, tmp_path / "model.onnx")
    assert not mark.exists()


def test_onnx_sources_are_checked(tmp_path: Path) -> None:
    export(settings("Small"), HERE, tmp_path / "model.onnx")
    whole = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="truncated or not an ONNX file"):
        export(Model(source=str(tmp_path / "cut.onnx")), HERE, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.save(proto, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data", size_threshold=0)
    (tmp_path / "apart.data").unlink()
    with pytest.raises(ModelError, match=r"apart\.data, not found beside it"):
        export(Model(source=str(tmp_path / "apart.onnx")), HERE, tmp_path / "model.onnx")


def test_external_data_comes_into_the_one_file(tmp_path: Path) -> None:
    export(settings("Small"), HERE, tmp_path / "model.onnx")
    stored = {item.name: item.raw_data for item in onnx.load(tmp_path / "model.onnx").graph.initializer}
    whole = onnx.load(tmp_path / "model.onnx")
    (tmp_path / "mine").mkdir()
    onnx.save(whole, tmp_path / "mine" / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "out").mkdir()
    export(Model(source=str(tmp_path / "mine" / "net.onnx")), HERE, tmp_path / "out" / "model.onnx")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    found = onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
    assert {item.name: item.raw_data for item in found} == stored


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "def build():\n    raise SystemExit(0)"])
def test_a_source_that_ends_the_process_is_refused(tmp_path: Path, code: str) -> None:
    (tmp_path / "quits.py").write_text(code + "\n")
    with pytest.raises(ModelError, match="SystemExit"):
        export(Model.model_validate({"source": "quits:build", "inputs": IMAGES}), tmp_path, tmp_path / "model.onnx")


@pytest.mark.parametrize("text", ["lr = 0.1\n", "hello", "", "{}", "\x80\x02}q"])
def test_weights_that_are_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.pt").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError):
        export(settings("Small", weights=tmp_path / "w.pt"), HERE, tmp_path / "model.onnx")


@pytest.mark.parametrize("text", ["{", "[]", '{"config": []}', '{"config": {"w": {"use_pickle": true}}}'])
def test_a_pt2_whose_index_is_damaged(tmp_path: Path, text: str) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "bad.pt2", "w") as archive:
        archive.writestr("bad/data/weights/model_weights_config.json", text)
    with pytest.raises(ModelError, match=r"not what torch\.export\.save writes"):
        export(Model(source=str(tmp_path / "bad.pt2")), HERE, tmp_path / "model.onnx")


def test_the_graph_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    """So it is the same wherever it is exported; the line of the user's file stays."""
    found = []
    for name in ("one", "two"):
        root = tmp_path / name / "project"
        root.mkdir(parents=True)
        (root / "own_net.py").write_text(
            "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.conv = torch.nn.Conv2d(3, 4, 3)\n\n    def forward(self, x):\n"
            "        return torch.relu(self.conv(x))\n"
        )
        asked = Model.model_validate({"source": "own_net:Net", "inputs": {"x": {"shape": ["batch", 3, 8, 8]}}})
        (root / "out").mkdir()
        export(asked, root, root / "out" / "model.onnx")
        found.append((root / "out" / "model.onnx").read_bytes())
    assert found[0] == found[1]
    assert str(tmp_path).encode() not in found[0] and b"/site-packages/" not in found[0]
    places = [graph.place(node) for node in onnx.load_from_string(found[0]).graph.node]
    assert any("own_net.py:10 in forward" in text for text in places), places


def odd(name: str, *shape: int | str, **inputs: object) -> Model:
    """The settings of one of ``odd_networks``."""
    return Model.model_validate(
        {"source": f"odd_networks:{name}", "inputs": inputs or {"x": {"shape": shape or ("batch", 3, 16, 16)}}}
    )


def test_a_model_that_keeps_a_tensor_of_its_first_call_exports_with_a_dynamic_batch(tmp_path: Path) -> None:
    result = export(odd("Cached"), HERE, tmp_path / "model.onnx")
    assert result.outputs[0].shape == ("batch", 4, 16, 16)


@pytest.mark.slow
def test_a_condition_on_the_batch_is_told_with_its_line_and_the_remedy_works(tmp_path: Path) -> None:
    both = {name: {"shape": ["batch", 3, 16, 16]} for name in "ab"}
    with pytest.raises(
        ExportError, match=r"cannot keep the axis 'batch' dynamic: .*, at odd_networks\.py:\d+ in forward"
    ) as refused:
        export(odd("Chunked", **both), HERE, tmp_path / "model.onnx")
    Path(refused.value.found.rpartition("torch's own words: ")[2].rstrip(")")).unlink()
    assert "slices x[:n] and x[n:] in place of torch.chunk" in str(refused.value.do)
    result = export(odd("Sliced", **both), HERE, tmp_path / "model.onnx")
    assert [info.shape[0] for info in (*result.inputs, *result.outputs)] == ["batch"] * 3


def test_a_batch_that_is_counted_stays_dynamic_and_a_check_at_run_time_is_left_out(tmp_path: Path) -> None:
    import odd_networks

    images = torch.linspace(-1, 1, 3 * 3 * 16 * 16).reshape(3, 3, 16, 16)  # three rows; the export saw two
    for name, notes in (("Counted", (STRICT,)), ("Checked", ())):
        result = export(odd(name), HERE, tmp_path / "model.onnx")
        assert (result.inputs[0].shape[0], result.outputs[0].shape[0], result.notes) == ("batch", "batch", notes)
        answer = Running(tmp_path / "model.onnx").run(None, {"x": images.numpy()})[0]
        with torch.no_grad():
            assert answer == pytest.approx(getattr(odd_networks, name)().eval()(images).numpy(), abs=1e-5)


@pytest.mark.slow
def test_a_view_of_another_layout_exports_and_a_failure_in_decomposing_is_not_a_missing_operator() -> None:
    class Turned(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.transpose(1, 2).contiguous().view(x.shape[0], -1)

    example = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Turned(), (example,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:  # as after a decomposition that leaves another layout than the kernel did
        if node.target in (torch.ops.aten.contiguous.default, torch.ops.aten.clone.default):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as refused:
        torch.onnx.export(program, (example,), dynamo=True, verbose=False)
    told = translation_error(refused.value).found
    assert re.match(
        r"torch fails in decomposing the operator aten\.view\.default: ValueError: Cannot view a tensor .*\[\?, 4, 3\]",
        told,
    )
    assert "test_export.py:" in told

    spec = Model.model_validate({"source": "net:build", "inputs": {"x": {"shape": ["batch", 3, 4]}}}).inputs
    proto, _, notes = to_onnx(Loaded(Turned(), spec, program), {"x": example.numpy()}, ["y"], 18)
    assert notes == []
    answer = Running(proto).run(None, {"x": example.numpy()})[0]
    assert (answer == Turned()(example).numpy()).all()


def test_star_arguments_export(tmp_path: Path) -> None:
    both = {"a": {"shape": ["batch", 3, 16, 16]}, "b": {"shape": ["batch", 4, 16, 16]}}
    result = export(odd("Star", **both), HERE, tmp_path / "model.onnx")
    assert [(info.name, info.shape[0]) for info in result.inputs] == [("a", "batch"), ("b", "batch")]
    assert export(odd("Ultralytics"), HERE, tmp_path / "one.onnx").inputs[0].shape[0] == "batch"


@pytest.mark.parametrize(("name", "multiples"), [("Pooled", False), ("Skip", True)])
def test_dynamic_height_and_width_are_tried_at_a_size_that_fits(tmp_path: Path, name: str, multiples: bool) -> None:
    result = export(odd(name, "batch", 3, "height", "width"), HERE, tmp_path / "model.onnx")
    assert result.inputs[0].shape == ("batch", 3, "height", "width")
    assert all(str(axis).isidentifier() or isinstance(axis, int) for info in result.outputs for axis in info.shape)
    assert any("multiples of 32" in note for note in result.notes) == multiples


def test_a_size_that_the_model_holds_is_named_with_its_line_and_torchs_words_in_a_log(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"froze the axis 'height, width'.*, at odd_networks\.py:\d+ in forward"
    ) as caught:
        export(odd("Frozen", "batch", 3, "height", "width"), HERE, tmp_path / "model.onnx")
    log = Path(caught.value.found.rpartition("torch's own words: ")[2].rstrip(")"))
    assert "Constraints violated" in log.read_text(encoding="utf-8")
    log.unlink()


def test_a_size_written_once_in_the_preprocessing_fixes_the_input(tmp_path: Path) -> None:
    size = Preprocess(size=(32, 48))
    result = export(odd("Skip", "batch", 3, "height", "width"), HERE, tmp_path / "model.onnx", size)
    assert result.inputs[0].shape == ("batch", 3, 32, 48)
    export(odd("Pooled", "batch", 3, "height", "width"), HERE, tmp_path / "free.onnx")
    again = export(Model(source=str(tmp_path / "free.onnx")), HERE, tmp_path / "fixed.onnx", size)
    assert again.inputs[0].shape == ("batch", 3, 32, 48)
    assert "input 'x' is fixed to ['batch', 3, 32, 48]" in again.notes
    with pytest.raises(ModelError, match="was asked for"):
        export(Model(source=str(tmp_path / "fixed.onnx")), HERE, tmp_path / "no.onnx", Preprocess(size=(64, 64)))


def test_a_declared_number_fixes_an_axis_of_a_file(tmp_path: Path) -> None:
    export(odd("Cached"), HERE, tmp_path / "free.onnx")
    source = {"source": str(tmp_path / "free.onnx"), "inputs": {"x": {"shape": [1, 3, 16, 16]}}}
    result = export(Model.model_validate(source), HERE, tmp_path / "one.onnx")
    assert result.inputs[0].shape == (1, 3, 16, 16)
    assert result.outputs[0].shape == (1, 4, 16, 16)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Stateful", r"keeps state in its buffers seen"),
        ("Dropping", r"draws random numbers: .*odd_networks\.py:\d+"),
        ("Brain", r"bfloat16 weights: conv\.weight[\s\S]*float32"),
    ],
)
def test_a_model_without_one_answer_is_named_before_the_export(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        export(odd(name), HERE, tmp_path / "model.onnx")
    assert re.search(words, str(caught.value))


def test_an_operator_of_a_later_opset_is_named_by_its_schema() -> None:
    node = onnx.helper.make_node("DeformConv", ["x", "w", "o"], ["y"])
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    with pytest.raises(ExportError, match=r"DeformConv needs opset 19, and model\.opset is 18"):
        require_opset(proto, 18)
    require_opset(proto, 19)


def test_a_file_of_another_kind_as_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    (tmp_path / "m.model").write_bytes(b"\x08\x08")
    for name, words in (("m.tflite", "is a TensorFlow Lite file"), ("m.model", "has no suffix that says what it is")):
        with pytest.raises(ModelError, match=words):
            export(Model(source=str(tmp_path / name)), HERE, tmp_path / "never.onnx")


def test_a_checkpoint_as_source_is_never_opened() -> None:
    with pytest.raises(ModelError, match="may run code and is not opened"):
        export(Model(source="best.pt"), HERE, HERE / "never.onnx")


def test_a_refusal_of_the_exporter_is_told_by_its_root_and_without_colours() -> None:
    try:
        try:
            raise ValueError("the loop over levels does not decompose")
        except ValueError as root:
            raise RuntimeError(
                "Failed to decompose the FX graph. \x1b[96mThis is step 2/3\x1b[0m of exporting"
            ) from root
    except RuntimeError as error:
        told = str(translation_error(error).found)
    assert told.startswith("the ONNX exporter refuses the model: ValueError: the loop over levels does not decompose")
    assert "step 2/3" not in told
    assert "\x1b" not in told and "[96m" not in told
