"""Calibration of a trained network on real pictures: what is measured, what is bound, what is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calibration_support import patches, pictures, tiny
from onnx import helper

from edgeship.errors import CacheError, DataError, ModelError, UserInputError
from edgeship.prepare import calibration_cache, graph, thresholds
from edgeship.prepare.activations import Observer
from edgeship.prepare.calibrate import CalibrateOptions, calibrate, method_named
from edgeship.prepare.frame_checks import Batches, Held, Kept
from edgeship.prepare.histogram import BINS
from edgeship.prepare.inferred_graph import infer, select
from edgeship.prepare.quantized_tensors import find_tensors
from edgeship.prepare.running import Running


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("cache") / "calib.cache"
    frames = pictures(model, 128)
    held = pictures(model, 64, "val")
    options = CalibrateOptions(
        evaluation=held,
        frame_hashes=dict(zip(frames.ids, frames.hashes, strict=True)),
        evaluation_hashes=frozenset([*held.hashes, frames.hashes[3]]),
        preprocess=STEPS,
    )
    return out, calibrate(model, frames, out, options)


STEPS = {"fit": "stretch", "mean": [73.0], "color": "gray"}


def expected(result: Any, **changes: Any) -> calibration_cache.Expected:
    facts = {
        "graph_sha256": result.graph_sha256,
        "preprocess": STEPS,
        "frames_sha256": result.frames_sha256,
        "method": result.method,
    }
    return calibration_cache.Expected(**(facts | changes))


def test_ranges_are_those_of_every_activation(model: Path, made: tuple[Path, Any]) -> None:
    """minmax against a plain run that stores everything."""
    out, result = made
    proto = infer(graph.load_onnx(model))
    names = list(find_tensors(proto).observed)
    session = Running(graph.with_outputs(proto, names))
    wanted = [name for name in names if name != "images"]
    stored = [dict(zip(wanted, session.run(wanted, feeds), strict=True)) | feeds for _, feeds in pictures(model, 128)]
    ranges = calibration_cache.load(out, expected(result)).ranges
    assert set(ranges) == set(names)
    assert result.frames == 128  # those held out to compare methods are counted in the end
    for name in names:
        values = np.concatenate([np.ravel(batch[name]) for batch in stored])
        assert ranges[name].low == pytest.approx(float(values.min()), rel=1e-5)
        assert ranges[name].amax["minmax"] == pytest.approx(float(np.abs(values).max()), rel=1e-5)
        exact = float(np.sort(np.abs(values))[int(np.ceil(0.9999 * values.size)) - 1])
        assert abs(ranges[name].amax["percentile"] - exact) <= float(np.abs(values).max()) / 2048 * 1.001


def test_mse_is_the_optimum_of_an_exhaustive_search_on_real_activations(model: Path) -> None:
    """Every number of bins for int8, rounded value by value; every pair of ends for uint8, by the noise model."""
    proto = infer(graph.load_onnx(model))
    observer = Observer(proto, find_tensors(proto).observed)
    for _ in observer.observe(iter(pictures(model, 32))):
        pass
    for name, found in observer.histograms().items():
        counts = found.magnitudes()
        used = np.flatnonzero(counts)
        centres, weights = used + 0.5, counts[used].astype(float)
        errors = []
        for bins in range(1, int(used[-1]) + 2):
            step = bins / 127
            errors.append(float(np.square(np.minimum(np.rint(centres / step), 127) * step - centres) @ weights))
        best = min((1 + int(np.argmin(errors))) * found.width, found.amax)
        assert thresholds.symmetric(found, "mse") == pytest.approx(best, abs=found.width), name

        signed = found.signed().astype(float)
        sides = []
        for side in (signed[BINS:], signed[:BINS][::-1]):
            filled, size = np.flatnonzero(side), 0 if not side.any() else int(np.flatnonzero(side)[-1]) + 1
            beyond = np.maximum(filled[None, :] + 0.5 - np.arange(size + 1)[:, None], 0.0)
            sides.append(np.square(beyond) @ side[filled])
        spans = np.arange(sides[0].size)[:, None] + np.arange(sides[1].size)[None, :]
        noise = signed.sum() - signed[BINS - 1 : BINS + 1].sum()
        costs = (spans / 255.0) ** 2 / 12 * noise + sides[0][:, None] + sides[1][None, :]
        costs[0, 0] = np.inf
        top, bottom = np.unravel_index(int(np.argmin(costs)), costs.shape)
        low, high = thresholds.asymmetric(found, "mse")
        assert high == pytest.approx(min(top * found.width, max(found.high, 0.0)), abs=found.width), name
        assert low == pytest.approx(max(-bottom * found.width, min(found.low, 0.0)), abs=found.width), name


def test_what_was_not_held_out_is_not_called_held_out(model: Path, tmp_path: Path) -> None:
    """Eight frames in one batch: nothing is left to compare the methods on, nor to see the thresholds move."""
    one = calibrate(model, pictures(model, 8), tmp_path / "1.cache", CalibrateOptions())
    assert (one.held_out, one.moved_p95, one.moving) == (0, None, ())
    assert one.methods
    assert "compared on the calibration frames themselves" in one.advice
    assert "Whether 8 frames are enough is not known" in one.advice
    two = calibrate(model, pictures(model, 16), tmp_path / "2.cache", CalibrateOptions())
    assert two.held_out == 8
    assert two.moved_p95 is not None
    assert "themselves" not in two.advice
    none = calibrate(model, pictures(model, 16, batch=2), tmp_path / "0.cache", CalibrateOptions(holdout=0.0))
    assert none.held_out == 0
    assert "themselves" in none.advice
    assert "is not known" not in none.advice


def test_auto_takes_the_nearest_method(made: tuple[Path, Any]) -> None:
    _, result = made
    scores = {score.method: score.snr_db for score in result.methods}
    assert set(scores) == set(thresholds.METHODS)
    assert result.method == max(scores, key=lambda name: scores[name])
    assert all(score.agreement is not None and score.agreement > 0.9 for score in result.methods)


class Counted:
    """A source that counts the batches that were taken from it."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches, self.taken = batches, 0

    def __len__(self) -> int:
        return sum(len(ids) for ids, _ in self._batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self.taken += 1
            yield batch


@pytest.mark.parametrize("method", ["auto", "minmax"])
def test_every_frame_is_decoded_once(method: Any, model: Path, tmp_path: Path) -> None:
    frames = Counted(list(pictures(model, 40, batch=4)))
    calibrate(model, frames, tmp_path / "calib.cache", CalibrateOptions(method=method))
    assert frames.taken == 10


def test_what_was_held_out_beyond_the_room_is_gone_through_again(model: Path) -> None:
    batches = list(pictures(model, 40, batch=4))
    size = sum(array.nbytes for array in batches[0][1].values())
    wanted = [ids for ids, _ in Held(batches, 0.25, inside=True)]
    for room, passes in ((size * 3, 1), (size, 2), (0, 2)):
        frames = Counted(batches)
        kept = Kept(frames, 0.25, room)
        assert [ids for ids, _ in kept] == [ids for ids, _ in batches]
        assert [ids for ids, _ in kept.held()] == wanted
        assert frames.taken == 10 * passes
        if room:
            assert [ids for ids, _ in kept.held(limit=4)] == wanted[: room // size]


def test_clipping_moving_and_overlap_are_reported(made: tuple[Path, Any]) -> None:
    out, result = made
    ranges = calibration_cache.load(out, expected(result)).ranges
    assert all(entry.clipped is not None and 0 <= entry.clipped < 0.01 for entry in ranges.values())
    assert result.moved_p95 >= 0
    assert len(result.overlap) == 1
    assert "are also in the evaluation set" in result.advice
    assert result.overlap[0] in result.advice


def test_a_recording_that_ends_brighter_than_it_began_needs_more_frames(model: Path, tmp_path: Path) -> None:
    real = list(pictures(model, 16, batch=2))
    brightening = [
        (ids, {"images": feeds["images"] * (0.3 if number < 6 else 1.0)}) for number, (ids, feeds) in enumerate(real)
    ]
    few = calibrate(model, Batches(brightening), tmp_path / "few.cache", CalibrateOptions(method="mse"))
    assert "images" in few.moving
    assert "More frames are needed: after 16" in few.advice
    assert few.moved_p95 > 0.05


def test_the_result_does_not_depend_on_workers_or_batches(model: Path, tmp_path: Path) -> None:
    """Integer counts: only the forward pass itself may round differently."""
    one = calibrate(
        model, pictures(model, 40, batch=8), tmp_path / "1.cache", CalibrateOptions(method="percentile", workers=1)
    )
    two = calibrate(
        model, pictures(model, 40, batch=4), tmp_path / "2.cache", CalibrateOptions(method="percentile", workers=3)
    )
    assert one.frames_sha256 == two.frames_sha256
    first, second = (calibration_cache.parse_cache(tmp_path / f"{name}.cache") for name in "12")
    for name, scale in first.items():
        assert second[name] == pytest.approx(scale, rel=1e-3)


def test_frames_of_a_driving_recording_that_darkens_clip(model: Path, tmp_path: Path) -> None:
    """Calibrated on dimmed pictures, evaluated on the real ones."""
    dim = Batches([(ids, {"images": feeds["images"] * 0.25 - 0.6}) for ids, feeds in pictures(model, 32)])
    options = CalibrateOptions(method="minmax", evaluation=pictures(model, 32, "val"))
    result = calibrate(model, dim, tmp_path / "dim.cache", options)
    assert "images" in result.clipping
    assert "Other frames are needed" in result.advice


# --- the cache -----------------------------------------------------------------------------------------------


def test_the_text_is_tensorrts(made: tuple[Path, Any]) -> None:
    """Read back by ModelOpt's own reader, and by ours."""
    from modelopt.onnx.quantization.calib_utils import import_scales_from_calib_cache

    out, result = made
    theirs = import_scales_from_calib_cache(str(out))
    ours = calibration_cache.parse_cache(out)
    assert out.read_text().splitlines()[0].startswith("TRT-")
    assert {f"{name}_scale": scale for name, scale in ours.items()} == theirs
    ranges = calibration_cache.load(out, expected(result)).ranges
    for name, entry in ranges.items():
        assert ours[name] == pytest.approx(entry.amax[result.method] / 127, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"graph_sha256": "0" * 64}, "graph: "),
        ({"preprocess": {"fit": "stretch", "mean": [73.0], "color": "rgb"}}, "settings: color was gray, here rgb"),
        ({"preprocess": {"fit": "stretch", "mean": [73.0]}}, "preprocessing: made with other settings: color was gray"),
        ({"preprocess": {}}, "preprocessing: made from images, here the frames come preprocessed"),
        ({"frames_sha256": "0" * 64}, "frames: "),
        ({"method": "other"}, "method: "),
    ],
)
def test_a_strangers_cache_is_refused_by_the_part_that_differs(
    made: tuple[Path, Any], change: dict[str, Any], part: str
) -> None:
    out, result = made
    with pytest.raises(CacheError) as refused:
        calibration_cache.load(out, expected(result, **change), trust=True)
    assert part in refused.value.found
    assert refused.value.found.count("\n  - ") == 1


def copied(made: tuple[Path, Any], folder: Path) -> Path:
    for path in made[0].parent.iterdir():
        shutil.copy(path, folder / path.name)
    return folder / made[0].name


@pytest.mark.parametrize(("name", "part"), [("calib.ranges.json", "ranges: "), ("calib.frames.npz", "frames: ")])
def test_changed_or_missing_neighbours_are_refused(
    made: tuple[Path, Any], tmp_path: Path, name: str, part: str
) -> None:
    place_ = copied(made, tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(CacheError, match="was changed after it was written") as refused:
        calibration_cache.load(place_, expected(made[1]))
    assert part in refused.value.found
    (tmp_path / name).unlink()
    with pytest.raises(CacheError, match="is not beside it"):
        calibration_cache.load(place_, expected(made[1]))


def test_an_edited_scale_is_refused(made: tuple[Path, Any], tmp_path: Path) -> None:
    place_ = copied(made, tmp_path)
    text = place_.read_text()
    place_.write_text(text[:-3] + ("0" if text[-3] != "0" else "1") + text[-2:])
    with pytest.raises(CacheError, match="its scales were changed"):
        calibration_cache.load(place_, expected(made[1]))


def test_another_calibration_version_is_refused(made: tuple[Path, Any], tmp_path: Path) -> None:
    place_ = copied(made, tmp_path)
    sidecar = calibration_cache.sidecar_path(place_)
    sidecar.write_text(re.sub(r'"calibration_version": \d+', '"calibration_version": 0', sidecar.read_text()))
    with pytest.raises(CacheError, match="calibration version 0"):
        calibration_cache.load(place_, expected(made[1]))


def test_a_plain_tensorrt_cache_needs_trust(made: tuple[Path, Any], tmp_path: Path) -> None:
    plain = tmp_path / "plain.cache"
    plain.write_text("TRT-8601-EntropyCalibration2\nimages: 3c010204\nlayer:0 out: 3d810204\n")
    with pytest.raises(CacheError, match="has no binding") as refused:
        calibration_cache.load(plain, calibration_cache.Expected())
    assert "--trust-cache" in (refused.value.do or "")
    trusted = calibration_cache.load(plain, calibration_cache.Expected(), trust=True)
    assert trusted.trusted
    assert set(trusted.scales) == {"images", "layer:0 out"}
    assert trusted.bounds("images", (0.0, 6.0)) == (0.0, pytest.approx(1.0, rel=1e-6))
    assert trusted.bounds("images") == (pytest.approx(-1.0, rel=1e-6), pytest.approx(1.0, rel=1e-6))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("images: 3c010204\n", "begins with"),
        ("TRT-8601-EntropyCalibration2\n", "no tensor"),
        ("TRT-8601-EntropyCalibration2\nimages: 3c01020\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nimages: 3c01020g\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nimages: 7fc00000\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nimages: 00000000\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nimages: bc010204\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nno separator\n", "line 2"),
        ("TRT-8601-EntropyCalibration2\nx: 3c010204\nx: 3c010204\n", "twice"),
    ],
)
def test_malformed_caches_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.cache"
    path.write_text(text)
    with pytest.raises(CacheError, match=words):
        calibration_cache.load(path, calibration_cache.Expected(), trust=True)


def test_an_absent_or_binary_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no calibration cache"):
        calibration_cache.load(tmp_path / "none.cache", calibration_cache.Expected(), trust=True)
    (tmp_path / "binary.cache").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CacheError, match="is not text"):
        calibration_cache.load(tmp_path / "binary.cache", calibration_cache.Expected(), trust=True)


def test_the_graphs_hash_ignores_comments_and_sees_weights(model: Path) -> None:
    proto = graph.load_onnx(model)
    before = calibration_cache.graph_hash(proto)
    proto.doc_string = "a comment"
    proto.graph.node[0].doc_string = "another"
    assert calibration_cache.graph_hash(proto) == before
    weight = next(tensor for tensor in proto.graph.initializer if tensor.raw_data)
    weight.raw_data = weight.raw_data[:-1] + bytes([weight.raw_data[-1] ^ 1])
    assert calibration_cache.graph_hash(proto) != before


# --- bad input -----------------------------------------------------------------------------------------------


def refuse(kind: type[Exception], model: Path, batches: list[Any], folder: Path) -> str:
    """Calibrate, expect a refusal, and see that nothing was written."""
    with pytest.raises(kind) as refused:
        calibrate(model, Batches(batches), folder / "calib.cache", CalibrateOptions(method="minmax"))
    assert list(folder.iterdir()) == []
    return str(refused.value)


def test_bad_frames_are_refused(model: Path, tmp_path: Path) -> None:
    good = np.ones((2, 1, 28, 28), np.float32)
    ids = ["a.png", "b.png"]
    broken = good.copy()
    broken[1, 0, 3, 3] = np.nan
    assert "no calibration frames" in refuse(DataError, model, [], tmp_path)
    assert "frame a.png: input 'images' has shape [2, 1, 32, 32]" in refuse(
        DataError, model, [(ids, {"images": np.ones((2, 1, 32, 32), np.float32)})], tmp_path
    )
    assert "has shape [2, 3, 28, 28]" in refuse(
        DataError, model, [(ids, {"images": np.ones((2, 3, 28, 28), np.float32)})], tmp_path
    )
    assert "dtype float64" in refuse(DataError, model, [(ids, {"images": good.astype(np.float64)})], tmp_path)
    assert "frame b.png" in refuse(DataError, model, [(ids, {"images": broken})], tmp_path)
    assert "also needs images" in refuse(DataError, model, [(ids, {"pixels": good})], tmp_path)
    assert "all 2 calibration frames are black" in refuse(DataError, model, [(ids, {"images": good * 0})], tmp_path)


def test_fewer_frames_than_a_fixed_batch(tmp_path: Path) -> None:
    proto = tiny("residual")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = tmp_path / "in" / "fixed.onnx"
    onnx.save(proto, path)
    frames = [(["a", "b"], {"x": np.ones((2, 3, 16, 16), np.float32)})]
    assert "the model takes batches of exactly 4" in refuse(DataError, path, frames, tmp_path / "out")


def test_an_activation_that_overflows_names_tensor_and_frame(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    proto = tiny("residual")
    proto.graph.node.insert(0, helper.make_node("Log", ["x"], ["logged"], name="n_log"))
    proto.graph.node[1].input[0] = "logged"
    path = tmp_path / "log.onnx"
    onnx.save(proto, path)
    for value, kind in ((-1.0, "NaN"), (0.0, "infinity")):
        frames = [([name], {"x": np.full((1, 3, 16, 16), x, np.float32)}) for name, x in (("a", 1.0), ("b", value))]
        message = refuse(ModelError, path, frames, tmp_path / "out")
        assert f"tensor 'logged' holds {kind} on frame b" in message


def test_a_graph_without_anything_to_quantize(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    proto = tiny("residual")
    del proto.graph.node[:]
    proto.graph.node.append(helper.make_node("Exp", ["x"], ["y"], name="n_exp"))
    path = tmp_path / "exp.onnx"
    onnx.save(proto, path)
    frames = [(["a"], {"x": np.ones((1, 3, 16, 16), np.float32)})]
    assert "no operator that can be quantized" in refuse(ModelError, path, frames, tmp_path / "out")


def test_a_dead_layer_is_named_and_gets_a_harmless_scale(tmp_path: Path) -> None:
    proto = tiny("residual")
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "b")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(8, -1e4, np.float32), "b"))
    path = tmp_path / "dead.onnx"
    onnx.save(proto, path)
    result = calibrate(path, Batches(patches("residual")), tmp_path / "calib.cache", CalibrateOptions(method="mse"))
    assert "'r': their scale is not meaningful" in result.advice
    assert calibration_cache.parse_cache(tmp_path / "calib.cache")["r"] == pytest.approx(1 / 127)


def test_unknown_methods_and_patterns_are_refused() -> None:
    with pytest.raises(UserInputError, match="unknown calibration method 'kl'"):
        method_named("kl")
    assert method_named("auto") == "auto"
    proto = tiny("residual")
    assert select(proto, ["op:Conv"]) == ("n_c", "n_d")
    assert select(proto, ["n_[cs]", "n_y"]) == ("n_c", "n_s", "n_y")
    with pytest.raises(UserInputError, match="'n_q' names no node") as refused:
        select(proto, ["n_q"])
    assert "n_" in (refused.value.expected or "")


def test_only_touched_tensors_are_observed() -> None:
    """The convolution's own result is fused into the ReLU; data movement shares its input's range."""
    placement = find_tensors(infer(tiny("gemm")))
    assert placement.observed == ("x", "r", "g", "y")
    assert placement.shared == {"c": "r", "f": "g"}
    attention = find_tensors(infer(tiny("attention")))
    assert set(attention.observed) == {"x", "q", "k", "v", "l", "m", "a", "y"}
    assert attention.shared == {"kt": "k"}


def test_an_observer_counts_inputs_that_feed_nothing_else() -> None:
    proto = infer(tiny("residual"))
    observer = Observer(proto, ["x"], workers=1)
    batches = patches("residual", 4)
    assert len(list(observer.observe(iter(batches)))) == 4
    assert observer.histograms()["x"].total == sum(feeds["x"].size for _, feeds in batches)


def test_later_passes_go_on_with_the_workers_of_the_first() -> None:
    proto = infer(tiny("residual"))
    observer = Observer(proto, find_tensors(proto).observed, workers=2)
    for _ in range(5):
        assert len(list(observer.observe(iter(patches("residual"))))) == 16
    assert len(observer._all) <= 2
    assert observer.histograms()["x"].total == 5 * 16 * 3 * 16 * 16


def test_an_input_without_axes_is_fed_whole(tmp_path: Path) -> None:
    """The batch is that of the other input; nothing is cut from a scalar or from a table of a fixed size."""
    path = tmp_path / "m.onnx"
    inputs = [("x", [2, 3, 4, 4]), ("k", []), ("table", [6, 2])]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Mul", ["c", "k"], ["y"], name="scale"),
        helper.make_node("Neg", ["table"], ["z"], name="neg"),
    ]
    weights = np.ones((2, 3, 1, 1), np.float32)
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("y", 1, [2, 2, 4, 4]), helper.make_tensor_value_info("z", 1, [6, 2])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    chance = np.random.default_rng(0)
    feeds = {name: np.asarray(chance.random(shape), np.float32) for name, shape in inputs}
    frames = Batches([(("a", "b"), feeds)])
    done = calibrate(path, frames, tmp_path / "c.cache", CalibrateOptions(method="minmax", workers=1))
    assert done.frames == 2


def test_a_name_of_two_lines_is_refused() -> None:
    with pytest.raises(CacheError, match="has a line end in its name"):
        calibration_cache.format_cache({"a": 1.0, "b\nc": 2.0})
