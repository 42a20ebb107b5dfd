"""Distillation: every output counts by its own variance, and of one that joins tensors, every part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeship.errors import TrainingError
from edgeship.qat.losses import Distill, Spread, summed_loss


class Head(nn.Module):
    """Boxes of hundreds beside a score below one: [n, 3, 5], whose last column is the score."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([300 * x[:, :, :4], torch.sigmoid(x[:, :, 4:])], dim=2)


class Off(Head):
    """The same with an error of a tenth of each part's spread in one of the parts."""

    def __init__(self, part: str) -> None:
        super().__init__()
        boxes, scores = Head()(torch.cat(frames())).split((4, 1), dim=2)
        self.error = 0.1 * (boxes if part == "boxes" else scores).std(correction=0)
        self.number = float(part == "scores")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.where(self.number == PLACES, self.error, 0.0)


PLACES = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]).expand(1, 3, 5)


def frames() -> list[torch.Tensor]:
    return list(torch.randn(12, 3, 5, generator=torch.Generator().manual_seed(0)).split((8, 4)))


@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_an_error_in_any_part_of_a_joined_output_counts_alike(part: str) -> None:
    batches = [torch.cat(frames())]
    loss = Distill(Head(), ("x",), (), {0: PLACES}).measured(batches, "cpu")
    assert loss(Off(part), batches[0]).item() == pytest.approx(0.01 / 2, rel=1e-3)
    whole = Distill(Head(), ("x",), ()).measured(batches, "cpu")
    assert (whole(Off(part), batches[0]).item() > 1e-3) == (part == "boxes")


def test_the_loss_of_batches_is_that_of_all_their_frames() -> None:
    parts, whole = frames(), [torch.cat(frames())]
    loss = Distill(Head(), ("x",), (), {0: PLACES})
    weights = [loss.measured(batches, "cpu").weights[0] for batches in (parts, whole)]
    torch.testing.assert_close(weights[0], weights[1])
    for measured in (loss.measured(parts, "cpu"), loss.measured(whole, "cpu")):
        (total, count), (other, other_count) = (summed_loss(measured, Off("scores"), given) for given in (parts, whole))
        assert count == other_count == 12.0
        assert total == pytest.approx(other, rel=1e-5)


def test_an_output_that_never_moves_has_a_weight_by_its_size() -> None:
    spread = Spread()
    spread.add(torch.full((4, 3), 2.0))
    assert spread.weight().item() == pytest.approx(1 / (1e-6 * 4.0))
    with pytest.raises(TrainingError, match=r"has the shape \[4, 2, 5\] on held-out frames"):
        Spread(PLACES).add(torch.zeros(4, 2, 5))
