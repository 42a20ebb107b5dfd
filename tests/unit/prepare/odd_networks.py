"""Small networks with one oddity each, for the tests of export and parity; ``odd_networks:NAME``."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def convolution(channels: int = 4, **more: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, channels, 3, padding=1, **more)


class Base(nn.Module):
    """A convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = convolution()


class Cached(Base):
    """Keeps a tensor of its first call's shape, as many detection heads do."""

    grid: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.grid is None or self.grid.shape[0] != y.shape[0]:
            self.grid = torch.ones_like(y[:, :1])
        return y * self.grid


class Chunked(Base):
    """Puts two batches behind one another and takes them apart, as optical flow does."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first, second = torch.chunk(self.conv(torch.cat([a, b])), 2)
        return first - second


class Sliced(Base):
    """The same, as the refusal advises."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        both = self.conv(torch.cat([a, b]))
        return both[: a.shape[0]] - both[a.shape[0] :]


class Star(Base):
    """Takes *args, as wrappers do."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.conv(inputs[0]) + inputs[1]


class Ultralytics(Base):
    """Takes one input and more arguments that no one gives, as Ultralytics' networks do."""

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return self.conv(x)


class Skip(Base):
    """Halves and doubles its picture: only even sizes fit together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = convolution(stride=2)
        self.down = nn.Conv2d(4, 4, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.conv(x)
        return torch.cat([a, functional.interpolate(self.down(a), scale_factor=2.0)], 1)


class Pooled(Base):
    """Pools three times: a tiny picture vanishes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        for _ in range(3):
            y = functional.max_pool2d(y, 2)
        return y.mean((2, 3))


class Frozen(Base):
    """Holds a picture of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, 4, 64, 96))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.place


class Stateful(Base):
    """Keeps a running mean in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, 4, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        self.seen.mul_(0.9).add_(y.mean(0, keepdim=True) * 0.1)  # type: ignore[operator]
        return y + self.seen


class Dropping(Base):
    """Leaves dropout on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(self.conv(x), 0.5)


class BatchStatistics(Base):
    """Normalizes with the statistics of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Brain(Base):
    """bfloat16 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = self.conv.bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.bfloat16()).float()


class Gated(Base):
    """SiLU, which is lowered to two ONNX nodes of one FX node."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.silu(self.conv(x))


class Counted(Base):
    """Takes the batch's size by len(), which a run makes a plain number of."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y.reshape(len(y), -1)


class Checked(Base):
    """Checks a tensor's value at run time, as many models of transformers do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        sizes = torch.empty((2,), dtype=torch.long)
        sizes[0], sizes[1] = y.shape[2], y.shape[3]
        torch._check_tensor_all(sizes.prod() == 256)
        return y
