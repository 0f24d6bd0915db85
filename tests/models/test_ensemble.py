"""Ensembles: what they return, predict and lose, by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.errors import InputError
from fastadv.losses import loss_and_grad
from fastadv.models import Ensemble


def linear(classes: int = 4) -> nn.Module:
    return nn.Linear(6, classes).double()


def scene() -> tuple[list[nn.Module], Tensor, Tensor]:
    torch.manual_seed(2)
    nets = [linear() for _ in range(3)]
    nets[0].weight.data.mul_(20)  # so that the three kinds differ
    return nets, torch.rand(40, 6, dtype=torch.float64), torch.randint(4, (40,))


HAND: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "logits": lambda z: (z[0] + z[1] + z[2]) / 3,
    "probabilities": lambda z: ((z[0].softmax(1) + z[1].softmax(1) + z[2].softmax(1)) / 3).log(),
    "loss": lambda z: (z[0].log_softmax(1) + z[1].log_softmax(1) + z[2].log_softmax(1)) / 3,
}


@pytest.mark.parametrize("of", HAND)
def test_what_it_returns_and_predicts(of: Any) -> None:
    nets, x, _ = scene()
    logits = [net(x) for net in nets]
    out = Ensemble(nets, of)(x)
    torch.testing.assert_close(out, HAND[of](logits))
    alike = [(out.argmax(1) == HAND[kind](logits).argmax(1)).all().item() for kind in HAND]
    assert alike == ([False, True, False] if of == "probabilities" else [True, False, True])


@pytest.mark.parametrize("sign", [1, -1])
def test_its_loss_is_the_mean_of_the_losses(sign: int) -> None:
    nets, x, y = scene()
    both, targets = Ensemble(nets, "loss"), None if sign == 1 else y
    x.requires_grad_()
    logits = both(x)
    value, by_logits = loss_and_grad(logits, 0 * y if targets is not None else y, both.loss, targets)
    expected = sign * sum(cross_entropy(net(x), y, reduction="none") for net in nets) / 3
    torch.testing.assert_close(value, expected.detach())
    (gradient,) = torch.autograd.grad(logits, x, by_logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])
    assert [Ensemble(nets, of).loss for of in ("logits", "probabilities")] == ["ce", "ce"]


@pytest.mark.parametrize("end", [nn.Identity(), nn.Flatten(0)])
def test_nets_of_one_logit_have_a_mean_of_logits_alone(end: nn.Module) -> None:
    nets, x = [nn.Sequential(linear(1), end) for _ in range(2)], torch.rand(5, 6).double()
    torch.testing.assert_close(Ensemble(nets)(x), (nets[0](x) + nets[1](x)) / 2)
    for of in ("probabilities", "loss"):
        with pytest.raises(InputError, match='of: expected "logits" for nets of one logit, got'):
            Ensemble(nets, of)(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble([]), "nets: expected a list of one or more modules"),
        (lambda: Ensemble([linear(), torch.relu]), "nets: expected a list of one or more modules"),
        (lambda: Ensemble([linear()], "votes"), "of: expected one of logits, probabilities, loss"),
        (lambda: Ensemble([linear(), linear(5)])(torch.rand(2, 6).double()), r"got \[2, 4\], \[2, 5\]"),
    ],
)
def test_wrong_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
