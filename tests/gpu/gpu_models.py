"""Small ONNX files for the GPU tests, made on the spot."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import small_onnx
from onnx import TensorProto, helper, numpy_helper
from small_onnx import nonzero, save

__all__ = ["convolutions", "images", "nonzero", "wide", "with_cpu_only_node"]

SIZE = 64


convolutions = partial(small_onnx.convolutions, depth=6, width=32, size=SIZE)
images = partial(small_onnx.images, size=SIZE)


def with_cpu_only_node(path: Path) -> Path:
    """A graph with a node that onnxruntime has no CUDA kernel for (Det), between two products."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.standard_normal((4, 4)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Det", ["h"], ["y"], "determinant"),
    ]
    return save(path, helper.make_graph(nodes, "mixed", [x], [y], [weight]))


def wide(path: Path) -> Path:
    """Convolutions at full resolution: 16 MiB of activations a layer and image."""
    return convolutions(path, depth=3, width=64, size=256)
