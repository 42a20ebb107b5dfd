"""The runtime on a real bundle and a real engine."""

from __future__ import annotations

import io
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import edgeship
from edgeship.bundle import MANIFEST, Contents, write, zip_bundle
from edgeship.data.preprocess import CorruptImage
from edgeship.decode.predictions import Classification
from edgeship.errors import ArtifactError, BundleError, DataError, EngineError, EngineMismatch, UserInputError
from edgeship.files import sha256_file
from edgeship.runtime import model as model_module
from edgeship.runtime.timing import WINDOW, Timekeeper
from edgeship.trial.run import run_trial
from processes import python
from vehicle_support import CLASSES, SIZE, decision, ground, make_trial, network


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    made = ground(folder / "ground")
    run_trial(make_trial(folder / "trial", made))
    write(Contents(folder / "trial", decision(), reference=folder / "trial"), folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def bundle(root: Path) -> Path:
    return root / "bundle"


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def photograph(root: Path, name: str) -> Path:
    return root / "ground" / "val" / name / "0.png"


def test_one_image_in_every_form(root: Path, bundle: Path) -> None:
    path = photograph(root, "cyclist")
    pixels = np.asarray(Image.open(path))
    with edgeship.load(bundle) as model:
        found = [model(form) for form in (path, str(path), path.read_bytes(), pixels, Image.open(path))]
    for prediction in found:
        assert isinstance(prediction, Classification)
        assert prediction.top(1)[0][0] == "cyclist"
        np.testing.assert_array_equal(prediction.scores, found[0].scores)


def test_several_cameras_at_once(root: Path, bundle: Path) -> None:
    paths = [photograph(root, name) for name in CLASSES]
    with edgeship.load(bundle) as model:
        frames = model.predict_batch(paths)
        assert [frame.prediction.top(1)[0][0] for frame in frames] == list(CLASSES)
        with pytest.raises(DataError, match="5 images at once"):
            model.predict_batch([paths[0]] * 5)


def test_a_zip_loads_as_the_folder_does(root: Path, bundle: Path, tmp_path: Path) -> None:
    packed = zip_bundle(bundle, tmp_path / "b.zip")
    with edgeship.load(packed) as model:
        assert model(photograph(root, "car")).top(1)[0][0] == "car"


def test_raw_inference_equals_the_bare_session(bundle: Path) -> None:
    feeds = {"images": np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)}
    bare = onnxruntime.InferenceSession(str(bundle / "engine.onnx")).run(None, feeds)[0]
    with edgeship.load(bundle) as model:
        np.testing.assert_allclose(model.infer(feeds)["logits"], bare, rtol=1e-5)


def test_dlpack_from_host_memory_is_not_copied(bundle: Path) -> None:
    tensor = torch.randn(1, 3, SIZE, SIZE)
    view = model_module.as_array("images", tensor)
    assert view.ctypes.data == tensor.data_ptr()
    with edgeship.load(bundle) as model:
        a, b = model.infer({"images": tensor}), model.infer({"images": tensor.numpy()})
        np.testing.assert_array_equal(a["logits"], b["logits"])
        with pytest.raises(DataError, match="a list"):
            model.infer({"images": [1.0]})
        with pytest.raises(DataError, match="through DLPack"):
            model.infer({"images": torch.zeros(1, 3, SIZE, SIZE, dtype=torch.bfloat16)})
        with pytest.raises(DataError, match="through DLPack"):
            model.infer({"images": torch.zeros(1, 3, SIZE, SIZE, device="meta")})


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"image": np.zeros((1, 3, SIZE, SIZE), np.float32)},
        {"images": np.zeros((1, 3, SIZE, SIZE), np.float64)},
        {"images": np.zeros((1, 3, SIZE, SIZE + 1), np.float32)},
    ],
    ids=["nothing", "name", "dtype", "shape"],
)
def test_wrong_feeds_are_refused(bundle: Path, feeds: dict[str, np.ndarray]) -> None:
    with edgeship.load(bundle) as model, pytest.raises(DataError, match="images"):
        model.infer(feeds)


def test_a_broken_image_does_not_end_the_model(root: Path, bundle: Path) -> None:
    with edgeship.load(bundle) as model:
        with pytest.raises(CorruptImage):
            model(b"no image")
        assert model(photograph(root, "car")).top(1)[0][0] == "car"


def test_the_parts_of_a_frame_and_its_deadline(root: Path, bundle: Path) -> None:
    with edgeship.load(bundle, budget_ms=1e-6) as model:
        frame = model.predict(photograph(root, "car"))
        timing = frame.timing
        parts = timing.preprocess_ms + timing.wait_ms + timing.infer_ms + timing.postprocess_ms
        assert timing.total_ms == pytest.approx(parts, abs=1e-3)
        assert timing.late
        seen = model.statistics()
        assert (seen.frames, seen.missed) == (1, 1)
        assert seen.p50_ms["total"] == timing.total_ms
    with edgeship.load(bundle, budget_ms=60_000) as model:
        assert model.statistics().frames == 0
        model(photograph(root, "car"))
        assert model.statistics().missed == 0


def test_many_threads_get_their_own_answers(root: Path, bundle: Path) -> None:
    random = np.random.default_rng(3)
    inputs = [random.standard_normal((1 + n % 4, 3, SIZE, SIZE)).astype(np.float32) for n in range(40)]
    with edgeship.load(bundle) as model:
        alone = [model.infer({"images": item})["logits"] for item in inputs]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda n: model.infer({"images": inputs[n % 40]})["logits"], range(800)))
        for number, answer in enumerate(together):
            np.testing.assert_array_equal(answer, alone[number % 40])
        assert model.statistics().frames == 840


def test_images_from_many_threads_are_predicted_and_counted(root: Path, bundle: Path) -> None:
    names = [CLASSES[number % 3] for number in range(90)]
    with edgeship.load(bundle, budget_ms=1e-6) as model:
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda name: model(photograph(root, name)).top(1)[0][0], names))
        seen = model.statistics()
    assert found == names
    assert (seen.frames, seen.missed) == (90, 90)


def test_warming_up_counts_no_frame(root: Path, bundle: Path) -> None:
    image = root / "ground" / "val" / "car" / "0.png"
    with edgeship.load(bundle, budget_ms=1e-6) as model:
        model.warm_up(image)
        assert (model.statistics().frames, model.statistics().missed) == (0, 0)
        assert model.predict(image).timing.late
        assert (model.statistics().frames, model.statistics().missed) == (1, 1)


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_time_is_refused(bundle: Path, budget: float) -> None:
    with pytest.raises(UserInputError, match="the budget is"):
        edgeship.load(bundle, budget_ms=budget)


def test_closing_while_threads_work_ends_them_cleanly(bundle: Path) -> None:
    model = edgeship.load(bundle)
    feeds = {"images": np.zeros((1, 3, SIZE, SIZE), np.float32)}
    ended: list[str] = []

    def work() -> None:
        while True:
            try:
                model.infer(feeds)
            except EngineError as error:
                ended.append(str(error))
                return

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    model.close()
    model.close()
    for thread in threads:
        thread.join(10)
    assert len(ended) == 4 and all("closed" in words for words in ended)


def _rewrite(bundle: Path, name: str) -> None:
    """Make the manifest agree with a changed file, as someone without the key would."""
    content = json.loads((bundle / MANIFEST).read_text())
    content["files"][name].update(sha256=sha256_file(bundle / name), size_bytes=(bundle / name).stat().st_size)
    (bundle / MANIFEST).write_text(json.dumps(content))


def test_an_engine_that_computes_something_else_is_refused(copy: Path) -> None:
    network(copy / "engine.onnx", seed=7)
    model = onnxruntime.InferenceSession(str(copy / "engine.onnx"))
    assert [item.name for item in model.get_inputs()] == ["images"]
    _rewrite(copy, "engine.onnx")
    with pytest.raises(BundleError, match="answer to the known input is wrong"):
        edgeship.load(copy)


def test_an_engine_that_is_swapped_after_its_check_is_not_opened(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit is looked at between the check of the hashes and the opening."""
    fits = model_module.check_fit

    def swapped(*arguments: object, **more: object) -> None:
        fits(*arguments, **more)  # type: ignore[arg-type]
        network(copy / "engine.onnx", seed=7)

    monkeypatch.setattr(model_module, "check_fit", swapped)
    with pytest.raises(ArtifactError, match="was changed after it was checked"):
        edgeship.load(copy, self_test=False)


def test_an_engine_with_other_tensors_is_refused(copy: Path) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    content["outputs"][0]["name"] = "scores"
    (copy / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="outputs are logits"):
        edgeship.load(copy)


def test_a_bundle_for_another_machine_names_the_command_that_rebuilds(copy: Path) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    content["identity"].update(version="1.2.3", device="Another Processor", instruction_sets=["avx9"])
    (copy / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(EngineMismatch) as caught:
        edgeship.load(copy)
    assert any("1.2.3" in item for item in caught.value.differences)
    assert any("Another Processor" in item for item in caught.value.differences)
    assert f"edgeship rebuild {copy}" in str(caught.value)
    with edgeship.load(copy, allow_misfit=True) as model:
        assert model.manifest.identity.version == "1.2.3"


def test_a_portable_bundle_fits_another_processor_of_its_platform(copy: Path) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    content["identity"].update(device="Another Processor", portable=True)
    (copy / MANIFEST).write_text(json.dumps(content))
    with edgeship.load(copy) as model:
        assert model.manifest.identity.device == "Another Processor"
    content["identity"].update(platform="aarch64-linux")
    (copy / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(EngineMismatch) as caught:
        edgeship.load(copy)
    assert len(caught.value.differences) == 1
    assert "optimized on aarch64-linux" in caught.value.differences[0]


def test_other_feeds_than_the_last_are_checked_again(bundle: Path) -> None:
    frame = np.zeros((1, 3, SIZE, SIZE), np.float32)
    wide = np.asfortranarray(np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32))
    with edgeship.load(bundle) as model:
        for _ in range(2):
            model.infer({"images": frame})
            wanted = model.infer({"images": np.ascontiguousarray(wide)})["logits"]
            assert np.array_equal(model.infer({"images": wide})["logits"], wanted)
            assert model.infer({"images": np.repeat(frame, 2, axis=0)})["logits"].shape == (2, len(CLASSES))
            for wrong, words in (
                ({"images": frame.astype(np.float64)}, "is float64, not float32"),
                ({"images": frame.astype(">f4")}, "is >f4, not float32"),
                ({"images": frame[0]}, "has shape"),
                ({"image": frame}, "is not an input"),
                ({}, "is missing"),
                ({"images": frame, "more": frame}, "'more' is not an input"),
            ):
                with pytest.raises(DataError, match=words):
                    model.infer(wrong)


def test_frames_and_missed_deadlines_are_counted_beyond_the_window() -> None:
    times = Timekeeper(1.0)
    for number in range(WINDOW + 10):
        end = 2_000_000 if number < 20 else 500_000
        assert times.note(0, 100_000, 200_000, 400_000, end) is (number < 20)
    seen = times.statistics()
    assert (seen.frames, seen.missed, seen.window) == (WINDOW + 10, 20, WINDOW)
    assert seen.p50_ms["total"] == 0.5
    assert seen.max_ms["total"] == 2.0
    assert seen.p50_ms["infer"] == pytest.approx(0.2)


def test_a_bundle_cannot_name_code_to_run(copy: Path, root: Path) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    content["evaluation"]["decoder"] = "os:system"
    (copy / MANIFEST).write_text(json.dumps(content))
    with edgeship.load(copy) as model, pytest.raises(BundleError, match="runs no code"):
        model(photograph(root, "car"))


def test_the_runtime_imports_neither_torch_nor_onnx(bundle: Path) -> None:
    code = (
        "import sys, edgeship, edgeship.runtime.model\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'typer', 'rich', 'cryptography', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"model = edgeship.load({str(bundle)!r})\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
        "model.close()\n"
    )
    python("-W", "error", "-c", code, check=True)


def with_known(bundle: Path, data: bytes) -> None:
    """Other bytes for the known input, hashes consistent: what anyone can make who may write an unsigned bundle."""
    (bundle / "known.npz").write_bytes(data)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"]["known.npz"] |= {"sha256": sha256_file(bundle / "known.npz"), "size_bytes": len(data)}
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def npz(**arrays: object) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    return sink.getvalue()


FRAME = np.zeros((1, 3, SIZE, SIZE), np.float32)
DAMAGED = {
    "text": (b"hello", "damaged"),
    "cut": (npz(**{"in:images": FRAME})[:300], "damaged"),
    "pickled": (npz(**{"in:images": np.array([{}], dtype=object)}), "damaged"),
    "empty": (npz(), "holds no input 'images'"),
    "no output": (npz(**{"in:images": FRAME}), "expected: in:NAME"),
    "no input": (npz(**{"out:logits": FRAME}), "expected: in:NAME"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_known_input_is_refused(copy: Path, name: str) -> None:
    data, words = DAMAGED[name]
    with_known(copy, data)
    with pytest.raises(BundleError, match=words):
        edgeship.load(copy)


def test_an_engine_without_inputs_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"inputs": []}))
    with pytest.raises(BundleError, match="inputs"):
        edgeship.load(copy)
