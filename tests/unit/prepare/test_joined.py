"""Which value of a joined output comes from which tensor, and noise that the whole output hides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from calibration_support import graph, node
from onnx import numpy_helper

from edgeship.prepare import compare
from edgeship.prepare.inferred_graph import infer
from edgeship.prepare.joined import find_joined, part_places

IMAGE = ["batch", 3, 4, 4]


def head() -> onnx.ModelProto:
    """Boxes of hundreds and scores below one, joined, moved and joined with a coarser level."""
    nodes = [
        node("Conv", "x w", "box"), node("Conv", "x v", "logits"), node("Sigmoid", "logits", "scores"),
        node("Concat", "box scores", "fine", axis=1), node("Reshape", "fine flat", "fine_rows"),
        node("GlobalAveragePool", "fine", "pooled"), node("Reshape", "pooled flat", "coarse_rows"),
        node("Concat", "fine_rows coarse_rows", "rows", axis=2), node("Transpose", "rows", "y", perm=[0, 2, 1]),
    ]  # fmt: skip
    random = np.random.default_rng(0)
    weights = {
        "w": (300 * random.standard_normal((2, 3, 1, 1))).astype(np.float32),
        "v": random.standard_normal((1, 3, 1, 1)).astype(np.float32),
        "flat": np.array([0, 3, -1], np.int64),
    }
    return infer(graph(nodes, weights, IMAGE, ["y"]))


def frames() -> list[tuple[list[str], dict[str, np.ndarray]]]:
    values = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    return [(["0", "1"], {"x": values})]


def test_every_value_has_the_number_of_its_tensor() -> None:
    (found,) = find_joined(head())
    assert (found.output, sorted(found.parts)) == ("y", ["box", "pooled", "scores"])
    values = {"box": np.zeros((2, 2, 4, 4)), "scores": np.zeros((2, 1, 4, 4)), "pooled": np.zeros((2, 3, 1, 1))}
    places = found.places(values)
    assert places.shape == (2, 17, 3)
    names = Counter(found.parts[int(number)] for number in places.flatten())
    assert names == {"box": 64, "scores": 32, "pooled": 6}
    assert {found.parts[int(number)] for number in places[:, :16, 2].flatten()} == {"scores"}


def test_the_places_of_one_row_serve_all_rows() -> None:
    (places,) = part_places(head(), frames()[0][1]).values()
    assert places.shape == (1, 17, 3) and len(np.unique(places)) == 3


def test_noise_in_a_small_part_is_told() -> None:
    reference = head()
    rounded = onnx.ModelProto()
    rounded.CopyFrom(reference)
    join = next(item for item in rounded.graph.node if item.output[0] == "fine")
    at = list(rounded.graph.node).index(join)
    join.output[0] = "fine_exact"
    pair = [node("QuantizeLinear", "fine_exact step zero", "q"), node("DequantizeLinear", "q step zero", "fine")]
    for number, item in enumerate(pair):
        item.name = f"pair{number}"
        rounded.graph.node.insert(at + 1 + number, item)
    for name, value in (("step", np.float32(12.0)), ("zero", np.int8(0))):
        rounded.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    told = compare.compare(reference, rounded, frames())
    assert told.output_snr_db > 20 and told.noisy == ()
    (note,) = told.notes
    assert "output 'y'" in note and "'scores' is" in note
    assert told.part_snr_db == told.parts["y", "scores"] < 10 < told.output_snr_db
    same = compare.compare(reference, reference, frames())
    assert same.notes == () and same.part_snr_db == same.output_snr_db


def test_an_output_of_one_tensor_joins_nothing() -> None:
    weights = {"w": np.ones((2, 3, 1, 1), np.float32)}
    assert find_joined(infer(graph([node("Conv", "x w", "y")], weights, IMAGE, ["y"]))) == ()
    assert find_joined(infer(graph([node("Concat", "x x", "y", axis=1)], {}, IMAGE, ["y"]))) == ()
