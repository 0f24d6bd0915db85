"""Rows that depend on each other: what is returned is what one pass of the whole batch judged."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.rng import generators_kept
from tests.attacks.masking.nets import honest

TEST = fa.data.load("digits", "test", limit=20)


def without_statistics() -> nn.Module:
    with generators_kept(torch.device("cpu"), 0):
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Flatten(),
            nn.Linear(288, 10),
        )  # fmt: skip
    return net.eval()


class Centered(nn.Module):
    """Takes the mean over the batch from the logits, or something else of it."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.of = honest("standard"), of

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return z - self.of(z)


MIXED: dict[str, Callable[[], Any]] = {
    "BatchNorm without statistics": without_statistics,
    "mean of the logits": lambda: Centered(lambda z: 0.5 * z.mean(0)),
    "all of the mean": lambda: Centered(lambda z: z.mean(0)),
    "function": lambda: lambda x: honest("standard")(x) * (1 + x.mean() * torch.arange(10)),
}
ATTACKS = {
    "pgd": partial(fa.attacks.pgd, threat=fa.Linf(0.05), steps=12),
    "apgd": partial(fa.attacks.apgd, threat=fa.Linf(0.05), steps=12, stop_early=False),
    "square": partial(fa.attacks.square, threat=fa.Linf(0.1), queries=60),
    "autoattack": partial(fa.attacks.autoattack, threat=fa.Linf(0.05), version=["apgd-ce"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_a_pass_of_what_is_returned_gives_the_successes(name: str) -> None:
    for kind, make in MIXED.items():
        model, x = make(), TEST.x
        y = model(x).argmax(1)
        y[::7] = (y[::7] + 1) % 10
        out = ATTACKS[name](model, x, y)
        fresh = model(out.x_adv).detach().argmax(1) != y
        assert torch.equal(fresh & out.success, out.success), kind
        assert torch.equal(fresh[out.correct], out.success[out.correct]), kind


def test_what_others_turn_right_again_is_no_success() -> None:
    """Both rows are of class 1 where their mean is above a half, as it is once the second is attacked."""

    def model(x: Tensor) -> Tensor:
        return torch.cat([torch.full_like(x, 0.5), 0 * x + x.mean()], 1)

    out = fa.attacks.pgd(model, torch.full((2, 1), 0.4), torch.tensor([1, 0]), fa.Linf(0.3), steps=3)
    assert out.flags[0].startswith("denied: 1 ")
    assert out.success.tolist() == [False, True]


def test_what_is_too_far_goes_back_before_the_verdict() -> None:
    """Of two minima one is beyond the radius; where it stayed, its mate would be denied."""

    def model(x: Tensor) -> Tensor:
        own, most = x[:, :1], x.amax()
        return torch.cat([torch.full_like(own, 0.55), own - (most > 0.7).to(x)], 1)

    def rule(search: fa.attacks.core.Search) -> None:
        search.offer(torch.tensor([[0.6], [0.9]]), torch.tensor([True, True]))

    x, y = torch.full((2, 1), 0.5), torch.zeros(2, dtype=torch.long)
    out = fa.attacks.core.run(model, x, y, fa.L2(0.2), rule, minimum=True)
    assert out.success.tolist() == [True, False]
    assert torch.equal(out.x_adv, torch.tensor([[0.6], [0.5]]))
    assert out.flags == ()


def test_the_last_verdict_is_on_what_is_returned() -> None:
    """The second row is never of class 1; the first is where the second moved, until that goes back to x."""

    def model(x: Tensor) -> Tensor:
        moved = (x[1:] > 0.55).to(x)
        return torch.cat([0.5 + 0 * x, torch.cat([moved, 0 * moved])], 1)

    def rule(search: fa.attacks.core.Search) -> None:
        search.offer(torch.full((2, 1), 0.6), torch.tensor([True, True]))

    x, y = torch.full((2, 1), 0.5), torch.zeros(2, dtype=torch.long)
    out = fa.attacks.core.run(model, x, y, fa.L2(0.2), rule, minimum=True)
    assert out.x_adv[1] == 0.5
    assert out.success.tolist() == [False, False]
    assert out.flags[0].startswith("denied: 2 ")


def test_autoattack_counts_what_the_last_verdicts_of_its_components_deny() -> None:
    """Three rows of which one alone is wrong where all have moved, as each component finds."""

    def model(x: Tensor) -> Tensor:
        few = torch.arange(len(x))[:, None] > 0
        other = torch.where(few & (x > 0.55).all(), 0 * x, x)
        return torch.cat([0.55 + 0 * x, other], 1)

    x, y, threat = torch.full((3, 1), 0.5), torch.zeros(3, dtype=torch.long), fa.Linf(0.2)
    alone = fa.attacks.apgd(model, x, y, threat, steps=100)
    assert alone.flags[0].startswith("denied: 2 ")
    out = fa.attacks.autoattack(model, x, y, threat, version=["apgd-ce"])
    (flag,) = (flag for flag in out.flags if flag.startswith("denied"))
    assert int(flag.split()[1]) >= 2
