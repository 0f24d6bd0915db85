"""What a look at a point says where values are not finite, and how points rank whose loss tells nothing."""

import torch
from torch import Tensor, nn

from fastadv.attacks import Status
from fastadv.attacks._core import run
from fastadv.attacks._ranking import graded
from fastadv.attacks._search import Search
from fastadv.threat import Linf


class Steep(nn.Module):
    """An infinite gradient where the first coordinate is 0, an infinite logit where the second is > 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.where(x[:, 1] > 0.5, torch.inf, 0.0)
        return torch.stack([1 + x[:, 2], x[:, 0].sqrt() + x[:, 1] + far], 1)


def test_a_gradient_that_is_not_finite_is_zero_there_and_nowhere_else() -> None:
    x, looks = torch.tensor([[0.0, 0.2, 0.3], [0.25, 0.2, 0.3]]), []

    def rule(search: Search) -> None:
        looks.append(search.gradient(search.start(), "margin").gradient)

    out = run(Steep(), x, torch.zeros(2, dtype=torch.long), Linf(0.1), rule, loss="margin")
    assert torch.equal(looks[0], torch.tensor([[0.0, 1.0, -1.0], [1.0, 1.0, -1.0]]))
    assert out.status.tolist() == [Status.FAILED, Status.HELD]


def test_an_infinite_logit_is_no_success() -> None:
    x, verdicts = torch.full((2, 3), 0.25), []

    def rule(search: Search) -> None:
        verdicts.append(search.decide(search.x + torch.tensor([0.0, 0.4, 0.0])).adversarial)

    out = run(Steep(), x, torch.zeros(2, dtype=torch.long), Linf(0.5), rule, stop_early=False)
    assert not verdicts[0].any()
    assert out.status.tolist() == [Status.FAILED] * 2


def test_only_certain_samples_rank_by_their_margin() -> None:
    logits = torch.tensor([[9.0, 2.0, 5.0], [1.0, 3.0, 2.0], [4.0, 1.0, 2.0]])
    value, y = torch.tensor([0.0, 0.5, torch.nan]), torch.zeros(3, dtype=torch.long)
    assert graded(value, logits, y, "ce", None).tolist() == [-4.0, 0.5, -2.0]
    assert graded(value[1:2], logits[1:2], y[1:2], "ce", None).tolist() == [0.5]
