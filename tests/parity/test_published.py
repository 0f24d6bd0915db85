"""The published variants beside the ports of adv-lib and foolbox, point by point.

Both are asked for gradients at the same points, within the rounding of float32. The authors wrote for
TensorFlow 1, and adv-lib and foolbox adapted their code. Where a package is missing its tests are skipped.
"""

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from tests.attacks.nets import images, labels, mlp
from tests.attacks.watched import watched

pytestmark = pytest.mark.slow
STEPS = 30
Attack = Callable[[Any, Tensor, Tensor], Any]


class Seen(nn.Module):
    """A net as a module, and the points at which it was asked for a gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, (self.ask, self.points) = net, watched(net, gradients=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.ask(x)


def adv_lib(name: str, **given: Any) -> Attack:
    pytest.importorskip("adv_lib", reason="adv-lib is not installed")
    attack = getattr(import_module("adv_lib.attacks"), name)
    return lambda model, x, y: attack(model, x, y, **given)


def of_foolbox(name: str, **given: Any) -> Attack:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")

    def call(model: nn.Module, x: Tensor, y: Tensor) -> Any:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return getattr(foolbox.attacks, name)(**given).run(wrapped, x, foolbox.Misclassification(y))

    return call


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A smooth net, images that no single coordinate breaks, and the labels that it gives them."""
    model, x = mlp(dtype=torch.float32), images(60, dtype=torch.float32)
    y = labels(model, x)
    far = fa.attacks.fmn(model, x, y, fa.L0(inf), steps=20).distance > 2
    return model, x[far][:6], y[far][:6]


def compare(ours: Attack, theirs: Attack) -> None:
    """Both ask for gradients at the same points, and some samples are broken on the way."""
    model, x, y = problem()
    there, (function, points) = Seen(model), watched(model, gradients=True)
    out = ours(function, x, y)
    theirs(there, x, y)
    assert out.success.any()
    assert len(points) == len(there.points) >= STEPS
    for step, (point, other) in enumerate(zip(points, there.points, strict=True)):
        torch.testing.assert_close(point, other, rtol=0, atol=2e-5, msg=lambda m, n=step: f"{n}: {m}")


def published(attack: Any, norm: str, **given: Any) -> Attack:
    return lambda model, x, y: attack(model, x, y, fa.threat.THREATS[norm](inf), variant="published", **given)


def test_cw_is_that_of_adv_lib_in_l2() -> None:
    """Nine searches, whose constants rise and are bisected."""
    given = {"max_iterations": STEPS, "initial_const": 0.01, "abort_early": False, "learning_rate": 0.02}
    ours = published(fa.attacks.cw, "l2", steps=STEPS, constant=0.01, step_size=0.02)
    compare(ours, adv_lib("carlini_wagner_l2", **given))


def test_ead_is_that_of_foolbox() -> None:
    given = {"steps": STEPS, "abort_early": False, "regularization": 1e-3, "decision_rule": "L1"}
    ours = published(fa.attacks.ead, "l1", steps=STEPS, step_size=0.05, constant=0.1)
    compare(ours, of_foolbox("EADAttack", **given, initial_stepsize=0.05, initial_const=0.1))


def test_cw_is_that_of_adv_lib_in_linf() -> None:
    """One image, as the authors' code takes them, and as far as no search fails: after one, the authors keep
    the moments of Adam, and adv-lib does not.
    """
    model, x, y = (part if isinstance(part, nn.Module) else part[5:] for part in problem())
    there, (function, points) = Seen(model), watched(model, gradients=True)
    given = {"steps": 300, "searches": 3, "constant": 1.0, "step_size": 0.01}
    published(fa.attacks.cw, "linf", **given)(function, x, y)
    adv_lib("carlini_wagner_linf", max_iterations=300, initial_const=1.0, learning_rate=0.01)(there, x, y)
    assert sum(torch.equal(point, other) for point, other in pairwise(points)) == 2
    for point, other in zip(points, there.points, strict=False):
        torch.testing.assert_close(point, other, rtol=0, atol=1e-4)


def test_ddn_is_that_of_adv_lib() -> None:
    ours = lambda model, x, y: fa.attacks.ddn(model, x, y, fa.L2(inf), steps=STEPS)  # noqa: E731
    compare(ours, adv_lib("ddn", levels=None, steps=STEPS))
