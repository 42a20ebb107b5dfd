"""The table of edgeship.toml for quantization-aware training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from edgeship.config_inputs import Count, Positive, Section
from edgeship.config_values import Device


class Qat(Section):
    """Quantization-aware training: ``edgeship qat`` trains, ``ship`` tries the result as the candidate ``int8-qat``."""

    step: str = "distill"
    """``distill``: the FP32 model teaches, no labels needed; or ``module:callable``, ``step(model, batch) -> loss``."""
    images: Path | None = None
    """Frames to distill on, preprocessed as everywhere. Default: those of ``[calibration]``."""
    data: str | None = None
    """``module:callable`` that returns the batches of an epoch: tensors, or tuples whose first part is the input."""
    validation: str | None = None
    """``module:callable`` that returns the held-out batches on which the best weights are chosen. Default: held-out
    frames, on which the trained model is compared with FP32."""
    epochs: Count | None = None
    """How often the data is gone through. Default: 3, where ``steps`` is not set."""
    steps: Count | None = None
    batch: Count = 32
    """Images a step; for ``data`` the loader decides."""
    lr: Positive = 1e-4
    """Largest learning rate of the weights. The ranges, whose logarithm is learned, have ten times as much."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after a warm-up over the first twentieth of the steps."""
    seed: int = 0
    keep: tuple[str, ...] = ()
    """Nodes that stay in high precision, beside those of ``quantization.keep``."""
    device: Device = "cpu"
    amp: bool = False
    """CUDA: FP16 autocast with a scaled loss."""

    @model_validator(mode="after")
    def _one_length(self) -> Qat:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("set epochs or steps, not both")
        if self.amp and not self.device.startswith("cuda"):
            raise ValueError('amp = true needs device = "cuda:0"')
        if self.images is not None and self.data is not None:
            raise ValueError("set images or data, not both")
        if self.step != "distill" and (":" not in self.step or self.data is None):
            raise ValueError(
                'step is "distill", or "module:callable" with data = "module:callable" that gives its batches'
            )
        return self
