"""Models that draw, searched with `eot`: no luck of a draw is kept, nor spares a sample or ends a search."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.attacks import ATTACKS, Status
from fastadv.attacks.core.record import Record

from .nets import images, labels, mlp

A, EOT = fa.attacks, 2
SEARCHES = [
    name for name, card in ATTACKS.items()
    if card.kind == "budget" and not card.requires and card.needs != "classes"
    and (card.knowledge == "gradient" or name in ("nes", "spsa"))
]  # fmt: skip
QUICK: dict[str, dict[str, Any]] = {"nes": {"queries": 35, "directions": 3}, "fgsm": {}}
QUICK["spsa"] = QUICK["nes"]


class Lucky(nn.Module):
    """Misreads all that comes in the passes `lucky`, and remembers what came."""

    def __init__(self, net: nn.Module, y: Tensor, *lucky: int) -> None:
        super().__init__()
        self.net, self.y, self.lucky, self.seen = net, y, lucky, list[Tensor]()

    def forward(self, z: Tensor) -> Tensor:
        self.seen.append(z.detach().clone())
        logits = self.net(z)
        if len(self.seen) - 1 not in self.lucky:
            return logits
        y = self.y.repeat_interleave(len(z) // len(self.y))
        return logits - 100 * F.one_hot(y, logits.shape[1])


def batch() -> tuple[nn.Module, Tensor, Tensor]:
    net, x = mlp(dtype=torch.float32), images(12, dtype=torch.float32)
    return net, x, labels(net, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_the_last_point_is_returned(name: str) -> None:
    """Whichever two passes are lucky after those at x; the last pass is the verdict."""
    net, x, y = batch()
    plain = Lucky(net, y)
    search = partial(ATTACKS[name].run, threat=fa.Linf(0.05), eot=EOT, **QUICK.get(name, {"steps": 4}))
    search(plain, x, y)
    for first in range(2, len(plain.seen) - 2):
        if len(plain.seen[first]) != len(x):
            continue  # probes
        model = Lucky(net, y, first, first + 1)
        out = search(model, x, y)
        assert len(model.seen) == len(plain.seen)
        assert (out.x_adv != x).flatten(1).any(1).all()
        if name != "fgsm":
            assert torch.equal(out.x_adv, model.seen[-2])
        assert torch.equal(out.success, labels(net, out.x_adv) != y)


@pytest.mark.parametrize("name", SEARCHES)
def test_what_one_draw_misreads_is_attacked(name: str) -> None:
    """A clean accuracy stays what the verdict says; a model that does not draw has no second look."""
    net, x, y = batch()
    search = partial(ATTACKS[name].run, x=x, threat=fa.Linf(0.5), eot=3, **QUICK.get(name, {"steps": 4}))
    for lucky in ((0,), (0, 1)):
        out = search(Lucky(net, y, *lucky), y=y)
        assert out.clean_accuracy == 0
        assert any("two answers" in flag for flag in out.flags)
        assert not (out.status == Status.ALREADY_WRONG).any()
        assert (out.x_adv != x).flatten(1).any(1).all()
        assert torch.equal(out.success, labels(net, out.x_adv) != y)
        assert out.success.any()
    other = torch.where(torch.arange(12) < 5, (y + 1) % 3, y)
    out = search(net, y=other)
    assert torch.equal(out.status == Status.ALREADY_WRONG, other != y)
    assert torch.equal(out.x_adv[:5], x[:5])
    assert not any("two answers" in flag for flag in out.flags)


def test_logits_that_are_not_finite_at_x_are_no_second_answer() -> None:
    net, x, y = batch()
    spoiled = x.flatten(1).sum(1) == x[0].sum()
    out = A.pgd(
        lambda at: net(at).masked_fill((at.flatten(1).sum(1) == x[0].sum())[:, None], torch.nan),
        x, y, fa.Linf(0.5), steps=3, eot=2,
    )  # fmt: skip
    assert not any("two answers" in flag for flag in out.flags)
    assert (out.status[spoiled] == Status.FAILED).all()
    assert torch.equal(out.x_adv[spoiled], x[spoiled])


def test_of_several_ends_the_strongest_is_returned() -> None:
    net, x, y = batch()
    for attack in (A.pgd, A.apgd):
        runs = [attack(net, x, y, fa.Linf(0.05), steps=3, eot=2, restarts=n, loss="margin") for n in (1, 4)]
        assert (runs[1].loss >= runs[0].loss - 1e-6).all()
        assert (runs[1].loss > runs[0].loss + 1e-4).any()


def test_a_point_without_finite_logits_is_none() -> None:
    net, x, y = batch()

    class Breaks(Lucky):
        def forward(self, z: Tensor) -> Tensor:
            logits = super().forward(z)
            lost = (torch.arange(12)[:, None] == 3) & (len(self.seen) > 8)
            return logits.masked_fill(lost, torch.nan)

    for attack in (A.pgd, A.apgd):
        out = attack(Breaks(net, y), x, y, fa.Linf(0.05), steps=6, eot=2)
        others = torch.arange(12) != 3
        assert out.x_adv.isfinite().all()
        assert out.status[3] == Status.FAILED
        assert torch.equal(out.success[others], (labels(net, out.x_adv) != y)[others])


class Turning(Lucky):
    """Linear, along another gradient in each pass."""

    def forward(self, z: Tensor) -> Tensor:
        self.seen.append(z.detach().clone())
        return z.flatten(1) @ torch.randn(16, 3, generator=torch.Generator().manual_seed(len(self.seen)))


@pytest.mark.parametrize("name", ["pgd", "bim", "mim", "apgd"])
def test_steps_of_a_model_that_draws_shorten(name: str) -> None:
    net, x, y = batch()
    ATTACKS[name].run(model := Turning(net, y), x, y, fa.Linf(0.05), steps=20, eot=EOT)
    assert (model.seen[-2] - model.seen[-4]).abs().max() < 0.04 * 0.05


def test_apgd_does_not_go_back_to_the_luckiest_point() -> None:
    net, x, y = batch()
    for model in (models := [Lucky(net, y), Lucky(net, y, 6, 7)]):
        A.apgd(model, x, y, fa.Linf(0.05), steps=20, eot=EOT, loss="margin")
    assert all(torch.equal(*points) for points in zip(*(model.seen for model in models), strict=True))


def test_a_loss_that_sinks_to_the_end_rises_by_nothing() -> None:
    record = Record.start(torch.zeros(1, 2))
    for rank in (3.0, 2.0, 1.0):
        record.rank.fill_(rank)
        record.note_rank()
    record.rank.zero_()
    assert record.unfinished.tolist() == [0]
