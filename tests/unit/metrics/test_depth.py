"""Depth: maps as they are read, both metrics by their definition, and outputs brought back to the image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgeship import metrics
from edgeship.config import Evaluation, Preprocess
from edgeship.data.datasets import open_dataset
from edgeship.data.preprocess import Geometry, apply
from edgeship.decode.decoders import decode_predictions
from edgeship.decode.predictions import Depth
from edgeship.errors import DataError, OutputError
from edgeship.metrics import depth

SETTINGS = Evaluation(task="depth")


@pytest.mark.parametrize("seed", range(3))
def test_both_metrics_by_their_definition(seed):
    random = np.random.default_rng(seed)
    collector = depth.collector((), SETTINGS)
    errors, near = [], []
    for _ in range(5):
        measured = random.uniform(1, 80, (6, 7)) * (random.random((6, 7)) > 0.3)
        found = random.uniform(0.5, 90, (6, 7)).astype(np.float32)
        found[0, 0] = np.nan
        collector.add(Depth(found), measured)
        pairs = [
            (f, m)
            for f, m in zip(found.ravel().tolist(), measured.ravel().tolist(), strict=True)
            if m and np.isfinite(f)
        ]
        errors.append(sum(abs(f - m) / m for f, m in pairs) / len(pairs))
        near.append(sum(max(f / m, m / f) < 1.25 for f, m in pairs) / len(pairs))
    records = collector.records()
    found = depth.summarize(records).metrics
    assert found == {"abs_rel": pytest.approx(np.mean(errors)), "delta1": pytest.approx(np.mean(near))}
    assert metrics.lower_is_better(records, "abs_rel")
    assert not metrics.lower_is_better(records, "delta1")
    drawn = depth.resample(records, np.array([[0, 2, 0, 1, 0]]), ["abs_rel"])["abs_rel"]
    assert drawn[0] == pytest.approx((2 * errors[1] + errors[3]) / 3)


def test_what_is_not_above_zero_is_far_off_and_nothing_measured_counts_nowhere():
    assert depth.compare(np.array([[0.0, -1.0, 2.0]]), np.array([[1.0, 1.0, 2.0]])) == {
        "abs_rel": pytest.approx(1.0),
        "delta1": pytest.approx(1 / 3),
    }
    assert np.isnan(depth.compare(np.ones((2, 2)), np.zeros((2, 2)))["abs_rel"])


def test_maps_of_both_kinds(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "maps").mkdir()
    metres = np.array([[1.5, 0.0, np.nan], [2.0, 3.0, -1.0]])
    np.save(tmp_path / "maps" / "a.npy", metres)
    Image.fromarray(np.array([[384, 0, 0], [512, 768, 0]], np.uint16)).save(tmp_path / "maps" / "b.png")
    found = open_dataset(SETTINGS.model_copy(update={"images": tmp_path / "images", "labels": tmp_path / "maps"}))
    for item in found.items:
        assert item.target(Geometry(2, 3, 2, 3)).tolist() == [[1.5, 0.0, 0.0], [2.0, 3.0, 0.0]]
    assert found.said == "depth maps: 2 labelled images"
    with pytest.raises(DataError, match=r"shape \[2, 3\], its image is 2×3"):
        found.items[0].target(Geometry(3, 2, 3, 2))
    np.save(tmp_path / "maps" / "a.npy", metres + 1j)
    with pytest.raises(DataError, match=r"the depth map .*a\.npy has dtype complex128"):
        found.items[0].target(Geometry(2, 3, 2, 3))
    Image.new("RGB", (3, 2)).save(tmp_path / "maps" / "b.png")
    with pytest.raises(DataError, match=r"the depth map .*b\.png has pixel mode RGB"):
        found.items[1].target(Geometry(2, 3, 2, 3))
    with pytest.raises(DataError, match="depth needs maps"):
        open_dataset(SETTINGS.model_copy(update={"images": tmp_path / "images"}))


def test_outputs_go_back_to_the_image():
    picture = np.zeros((20, 40, 3), np.uint8)
    placed, geometry = apply(picture, Preprocess(fit="letterbox", pad_value=0), (40, 40))
    chart = np.full((1, 1, *placed.shape[1:]), 9.0, np.float32)
    chart[:, :, 10:30] = 4.0
    for outputs in ({"d": chart}, {"d": chart[:, 0], "other": np.zeros((1, 7), np.float32)}):
        found = decode_predictions("depth", None, outputs, [geometry], SETTINGS, ())[0]
        assert found.metres.shape == (20, 40)
        assert (found.metres == 4.0).all()
    with pytest.raises(OutputError, match="2 of them could be the depth"):
        decode_predictions("depth", None, {"a": chart, "b": chart}, [geometry], SETTINGS, ())
