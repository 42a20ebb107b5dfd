"""A std for each channel, folded into the convolutions that read the image: same answers, or a clear refusal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from strange import FLOAT, SIDE, convolution, model, node, value, weight

from edgeship.errors import ModelError
from edgeship.prepare.fold_std import fold_std
from edgeship.prepare.running import Running

STD = (58.4, 40.0, 90.0)
W = weight("w", 4, 3, 3, 3)


def same(made: onnx.ModelProto) -> tuple[str, ...]:
    """Check that the folded graph answers as the original does; returns the convolutions that hold the division."""
    before = made.SerializeToString()
    folded, kept, nodes = fold_std(made, STD)
    assert made.SerializeToString() == before, "the graph that was given stays as it is"
    pixels = np.random.default_rng(3).uniform(-128, 128, (2, 3, SIDE, SIDE))
    by_channel = np.array(STD).reshape(-1, 1, 1)
    wanted = Running(made).run(None, {"x": (pixels / by_channel).astype(np.float32)})
    found = Running(folded).run(None, {"x": (pixels / kept).astype(np.float32)})
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5)
    unfolded = Running(made).run(None, {"x": (pixels / kept).astype(np.float32)})
    assert any(np.abs(one - other).max() > 0.1 for one, other in zip(wanted, unfolded, strict=True))
    return nodes


def test_a_convolution_with_padding() -> None:
    assert same(model([convolution()], [W])) == ("conv_y",)


def test_groups_and_a_bias() -> None:
    depthwise = node("Conv", ["x", "d", "b"], ["a"], name="depthwise", group=3, pads=[1] * 4)
    assert same(
        model([depthwise, convolution("a")], [weight("d", 6, 1, 3, 3), weight("b", 6), weight("w", 4, 6, 3, 3)])
    ) == ("depthwise",)


def test_two_convolutions_that_read_the_image_and_share_weights_with_a_third() -> None:
    last = node("Conv", ["p", "w"], ["q"], name="last", pads=[1] * 4)
    inner = node("Conv", ["s", "v"], ["p"], name="inner", pads=[1] * 4)
    nodes = [convolution(target="a"), convolution(target="b"), node("Add", ["a", "b"], ["s"]), inner, last]
    made = model([*nodes, node("Relu", ["q"], ["y"], name="relu")], [W, weight("v", 3, 4, 3, 3, seed=1)])
    assert same(made) == ("conv_a", "conv_b")


def test_weights_of_a_constant_node_and_weights_that_are_listed_as_inputs() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=W)
    assert same(model([constant, convolution()])) == ("conv_y",)
    listed = model([convolution()], [W], ir=8)
    listed.graph.input.append(value("w", FLOAT, list(W.dims)))
    assert same(listed) == ("conv_y",)


HALF = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float16), "w")
BRANCH = helper.make_graph([node("Identity", ["x"], ["i"])], "body", [], [value("i", FLOAT, None)])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (model([node("Relu", ["x"], ["a"], name="first"), convolution("a")], [W]), "Relu 'first' reads the input 'x'"),
        (model([convolution(target="a"), node("Add", ["a", "x"], ["y"], name="skip")], [W]), "Add 'skip' reads"),
        (
            model(
                [
                    node("If", ["c"], ["a"], name="if", then_branch=BRANCH, else_branch=BRANCH),
                    convolution(target="b"),
                    node("Add", ["a", "b"], ["y"]),
                ],
                [W, numpy_helper.from_array(np.array(True), "c")],
            ),
            "If 'if' reads the input 'x'",
        ),
        (
            model([node("Cast", ["h"], ["w"], to=TensorProto.FLOAT), convolution()], [weight("h", 4, 3, 3, 3)]),
            "not stored as float32",
        ),
        (model([convolution()], [HALF]), "not stored as float32"),
        (model([convolution()], [weight("w", 4, 1, 3, 3)]), "std has 3 channels"),
        (model([node("Identity", ["w"], ["y"])], [W]), "is read by nothing"),
        (model([convolution()], [W], outputs=[value("x", FLOAT, None)]), "is an output too"),
    ],
)
def test_what_cannot_hold_the_division_is_refused_with_the_remedy(made: onnx.ModelProto, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        fold_std(made, STD)
    assert caught.value.do is not None and "set one std" in caught.value.do
