"""What a look at a point says where values are not finite, and how points rank whose loss tells nothing."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import Status
from fastadv.attacks.core.run import run
from fastadv.attacks.core.search import Search
from fastadv.attacks.core.waiting import surely_finite
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


def test_an_infinite_logit_does_not_compete() -> None:
    """Though its loss, which does not read that logit, is finite and larger."""
    x, finite = torch.full((2, 3), 0.25), torch.tensor([0.0, 0.1, 0.0])

    def loss(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return -logits[:, 0]

    def rule(search: Search) -> None:
        for step in (torch.tensor([0.0, 0.4, -0.1]), finite):
            search.decide(search.x + step)

    out = run(Steep(), x, torch.zeros(2, dtype=torch.long), Linf(0.5), rule, loss=loss)
    torch.testing.assert_close(out.x_adv, x + finite)


@pytest.mark.parametrize(("places", "flat"), [((0.7, 0.2), False), ((0.2, 0.7), False), ((0.2,), True)])
def test_one_gradient_is_enough(places: tuple[float, ...], flat: bool) -> None:
    """A later gradient of zero does not take the place of the largest."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.ones(len(x)), (x[:, 0] - 0.5).relu()], 1)

    def rule(search: Search) -> None:
        for place in places:
            search.gradient(torch.full_like(search.x, place), "margin")

    out = run(Bent(), torch.full((2, 3), 0.3), torch.zeros(2, dtype=torch.long), Linf(0.5), rule)
    assert out.zero_gradient.tolist() == [flat] * 2


def test_sizes_that_are_known_to_be_finite() -> None:
    for sizes, known in (
        ([0.0, 1e38], True),
        ([], True),
        ([1.0, torch.inf], False),
        ([torch.nan, 1.0], False),
    ):
        assert surely_finite(torch.tensor(sizes)) == known
