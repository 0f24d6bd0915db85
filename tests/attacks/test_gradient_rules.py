"""Gradient rules: those for transfer, and what an attack makes of any."""

from collections import Counter
from inspect import signature
from typing import Any, Unpack

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks import ATTACKS, pgd, square
from fastadv.attacks.core import GradientCommon, GradientRule, Search, run, takes_common
from fastadv.attacks.rules import diverse_inputs, translation_invariant, variance_tuning
from fastadv.errors import InputError
from fastadv.threat import L2, Linf

from .nets import Case, Counted, images, labels, mlp, threat

ALL = diverse_inputs(0.7, 1.2), translation_invariant(3), variance_tuning(2)


def scene(shape: tuple[int, ...] = (2, 6, 6), size: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    model = mlp(4, shape[0] * shape[1] * shape[2])
    x = images(size, shape)
    return model, x, labels(model, x)


def followed(x: Tensor, model: nn.Module, y: Tensor, *rules: GradientRule, steps: int, **options: Any) -> Any:
    """The gradients that an attack sees at x, x - 0.1, x - 0.2 and so on, and its last look."""
    looks: list[Any] = []

    def rule(search: Search) -> None:
        for step in range(steps):
            looks.append(search.gradient(search.x - 0.1 * step))

    run(model, x, y, Linf(0.2, (-9, 9)), rule, gradient=rules, loss="ce", **options)
    return [look.gradient for look in looks], looks[-1]


def gradient(model: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]


def test_what_is_remembered_and_drawn() -> None:
    """Of each sample, from step to step; by its number, the seed and the draw."""
    model, x, y = scene((1, 7, 5))
    ids, draw = torch.arange(5) + 3, 0
    gradients, _ = followed(x, model, y, variance_tuning(3, 2.0), steps=3, seed=2, ids=ids)
    torch.testing.assert_close(gradients[0], gradient(model, y, x))
    for step in (1, 2):
        before, around = x - 0.1 * (step - 1), []
        for _ in range(3):
            draw += 1
            drawn = rng.uniform(35, rng.derive(2, "gradient rule", 0), ids, draw).double().view_as(x)
            around.append(gradient(model, y, before + (2 * drawn - 1) * 2.0 * 0.2))
        variance = sum(around) / 3 - gradient(model, y, before)
        torch.testing.assert_close(gradients[step], gradient(model, y, x - 0.1 * step) + variance)


class Times(GradientRule):
    linear = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, search: Any, points: Tensor, ask: Any) -> Tensor:
        return self.factor * ask(points)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in ATTACKS.items() if entry.takes("gradient")])
def test_every_attack_that_follows_a_gradient_takes_rules(name: str) -> None:
    """And their passes are counted."""
    net, x, y = scene((1, 4, 4), 4)
    passes, case = Counter[str](), Case(name, ATTACKS[name])
    model = Counted(net, lambda n: passes.update(forward=n), lambda n: passes.update(backward=n))
    norm = case.entry.norms[0]  # Linf where the attack serves it, the norm of one of the rules
    ball = threat(norm, 4 if case.entry.minimal else 1)
    every = ALL if norm == "linf" and not case.entry.minimal else ALL[:2]
    plainly, same, other = outs = [case(model, x, y, ball, gradient=by) for by in ((), Times(1.0), every)]
    assert sum(out.forwards for out in outs) == passes["forward"]
    assert sum(out.backwards for out in outs) == passes["backward"]
    assert torch.equal(same.x_adv, plainly.x_adv)
    assert (same.forwards, same.backwards) == (plainly.forwards, plainly.backwards)
    assert (other.x_adv != plainly.x_adv).any()
    mask = torch.arange(16).view(1, 4, 4) > 5
    held = case(model, x, y, ball, gradient=ALL[:2], mask=mask, targets=(y + 1) % 4)
    assert torch.equal(held.x_adv[:, ~mask], x[:, ~mask])
    assert torch.equal(other.success, labels(model, other.x_adv) != y)


class Picky(GradientRule):
    last = True

    def check(self, x: Tensor, threat: Any) -> None:
        if not isinstance(threat, Linf):
            raise InputError("gradient: Picky expects Linf")

    def __call__(self, search: Any, points: Tensor, ask: Any) -> Tensor:
        found: Tensor = ask(points)
        return found


@pytest.mark.parametrize(
    ("rules", "message"),
    [(torch.sign, "gradient: expected gradient rules"), ((Picky(), Times(1.0)), "once and at the end"),
     ((Picky(), Picky()), "once and at the end"), (Picky(), "Picky expects Linf")],
)  # fmt: skip
def test_bad_rules(rules: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pgd(*scene(), L2(0.1), steps=1, gradient=rules)


def test_attacks_that_follow_no_gradient_do_not_take_rules() -> None:
    with pytest.raises(TypeError, match="square: no argument 'gradient'"):
        square(*scene(), Linf(0.1), queries=1, gradient=ALL)
    names = "apgd bim cw ddn ead fgsm fmn lbfgs mim pdgd pdpgd pgd sigma_zero"
    assert [name for name, entry in sorted(ATTACKS.items()) if entry.takes("gradient")] == names.split()


def test_an_attack_of_ones_own_takes_them_where_it_says_so() -> None:
    def attack(model: Any, x: Any, y: Any, threat: Any, **common: Any) -> Any:
        raise NotImplementedError

    assert "gradient" not in signature(takes_common(attack)).parameters
    for annotation in (Unpack[GradientCommon], "Unpack[core.GradientCommon]"):
        attack.__annotations__["common"] = annotation
        assert signature(takes_common(attack)).parameters["gradient"].default == ()
