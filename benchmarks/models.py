"""Networks of our own definition for the benchmarks: no weights are downloaded, no package defines them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


def conv_bn(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalization."""
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (K. He et al., "Deep Residual Learning", 2015)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(channels, out, 3, stride)
        self.second = conv_bn(out, out, 3)
        self.shortcut = nn.Identity() if stride == 1 and channels == out else conv_bn(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, out, H / stride, W / stride]."""
        inner = torch.relu(self.first(x))
        return torch.relu(self.second(inner) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for 1000 classes with Kaiming-initialized weights and settled batch statistics."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        channels = 64
        for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [BasicBlock(channels, out, stride), BasicBlock(out, out, 1)]
            channels = out
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(512, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] → [N, 1000]."""
        return self.head(torch.flatten(self.pool(self.blocks(self.stem(images))), 1))


def resnet18(path: Path, size: int = 224, seed: int = 0) -> Path:
    """Export ResNet-18 with a dynamic batch to ONNX, batch normalization folded by the exporter."""
    model = ResNet18(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(8, 3, size, size, generator=generator))
    model.eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, size, size),),
        str(path),
        input_names=["images"],
        output_names=["logits"],
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({0: batch},),
        external_data=False,
        verbose=False,
    )
    return path


def chain(path: Path, side: int, width: int, depth: int, head: str = "logits") -> Path:
    """3x3 convolutions of ``width`` channels with random weights: images [batch, 3, side, side] → the head.

    ``logits``: [batch, 10], stride 2 at the first convolution. ``detections``: 100 fixed rows [batch, 100, 6] of
    corners, score and class, stride 8 in all, so that decoding and matching have boxes to work on.
    """
    random = np.random.default_rng(0)
    nodes, constants, last, channels = [], {}, "images", 3
    halved = 1 if head == "logits" else 3
    for number in range(depth):
        stride = 2 if number < halved else 1
        scale = (2 / (9 * channels)) ** 0.5
        constants[f"w{number}"] = random.normal(0, scale, (width, channels, 3, 3)).astype(np.float32)
        made = [last, f"w{number}"], [f"c{number}"]
        nodes.append(helper.make_node("Conv", *made, pads=[1] * 4, strides=[stride] * 2, name=f"conv{number}"))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        last, channels = f"r{number}", width
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"]))
    if head == "logits":
        constants["v"] = random.normal(0, 1, (width, 10)).astype(np.float32)
        nodes += [helper.make_node("Flatten", ["mean"], ["flat"]), helper.make_node("MatMul", ["flat", "v"], [head])]
        shape: list[str | int] = ["batch", 10]
    else:
        constants |= _fixed_rows(random)
        nodes += [
            helper.make_node("ReduceMean", ["mean", "all"], ["one"], keepdims=1),
            helper.make_node("Squeeze", ["one", "last"], ["flat"]),
            helper.make_node("Mul", ["flat", "zero"], ["nothing"]),
            helper.make_node("Add", ["rows", "nothing"], [head]),
        ]
        shape = ["batch", 100, 6]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side])]
    outputs = [helper.make_tensor_value_info(head, TensorProto.FLOAT, shape)]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def _fixed_rows(random: np.random.Generator) -> dict[str, np.ndarray]:
    rows = np.zeros((1, 100, 6), np.float32)
    rows[0, :, :2] = random.uniform(0, 300, (100, 2))
    rows[0, :, 2:4] = rows[0, :, :2] + random.uniform(5, 100, (100, 2))
    rows[0, :, 4], rows[0, :, 5] = random.random(100), random.integers(0, 80, 100)
    return {"rows": rows, "zero": np.array(0, np.float32), "all": np.array([1, 2, 3]), "last": np.array([3])}
