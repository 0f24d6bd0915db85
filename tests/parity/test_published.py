"""The published variants beside the authors' code, or the port that stands for it, point by point.

Both are asked for gradients at the same points from the same start, within the rounding of float32. C&W's and
EAD's authors wrote for TensorFlow 1, so that adv-lib and foolbox, which adapted their code, stand for it.
Where a package is missing its tests are skipped: tests/parity/peers.py says how to get it.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from tests.attacks.nets import images, labels, mlp
from tests.attacks.watched import watched
from tests.parity.peers import P

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


def of_foolbox(name: str, file: str = "", **given: Any) -> Attack:
    """An attack of foolbox, or one that is written for it, in a file of FASTADV_PEERS."""
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    attacks, start = foolbox.attacks, {}
    if "starting_points" in given:
        start["starting_points"] = given.pop("starting_points")
    if file:  # by its place: tests/ has a folder of the same name
        place = next((Path(part, file) for part in sys.path if Path(part, file).exists()), None)
        if place is None:
            pytest.skip(f"{file} is not in FASTADV_PEERS")
        spec = spec_from_file_location("of_authors", place)
        assert spec is not None
        assert spec.loader is not None
        attacks = module_from_spec(spec)
        spec.loader.exec_module(attacks)

    def call(model: nn.Module, x: Tensor, y: Tensor) -> Any:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return getattr(attacks, name)(**given).run(wrapped, x, foolbox.Misclassification(y), **start)

    return call


def problem(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor, Tensor]:
    """A smooth net, images that no single coordinate breaks, and the labels that it gives them."""
    model, x = mlp(dtype=dtype), images(60, dtype=dtype)
    y = labels(model, x)
    far = fa.attacks.fmn(model, x, y, fa.L0(inf), steps=20).distance > 2
    return model, x[far][:6], y[far][:6]


def compare(ours: Attack, theirs: Attack, dtype: torch.dtype = torch.float32) -> None:
    """Both ask for gradients at the same points, and some samples are broken on the way."""
    model, x, y = problem(dtype)
    there, (function, points) = Seen(model), watched(model, gradients=True)
    out = ours(function, x, y)
    theirs(there, x, y)
    assert out.success.any()
    assert len(points) == len(there.points) >= STEPS
    for step, (point, other) in enumerate(zip(points, there.points, strict=True)):
        torch.testing.assert_close(point, other, rtol=0, atol=2e-5, msg=lambda m, n=step: f"{n}: {m}")


def published(attack: Any, norm: str, **given: Any) -> Attack:
    return lambda model, x, y: attack(model, x, y, fa.threat.THREATS[norm](inf), variant="published", **given)


@pytest.mark.parametrize("norm", ["l0", "l1", "linf"])
def test_fmn_is_that_of_adv_lib(norm: str) -> None:
    """Its projection in L2 stretches points to the sphere, which the authors' does not."""
    compare(published(fa.attacks.fmn, norm, steps=STEPS), adv_lib("fmn", norm=P[norm], steps=STEPS))


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_fmn_is_that_of_its_authors(norm: str) -> None:
    name = {"l0": "L0FMNAttack", "l1": "L1FMNAttack", "l2": "L2FMNAttack", "linf": "LInfFMNAttack"}[norm]
    compare(published(fa.attacks.fmn, norm, steps=STEPS), of_foolbox(name, "attacks/fmn.py", steps=STEPS))


def test_cw_is_that_of_adv_lib_in_l2() -> None:
    """Nine searches, whose constants rise and are bisected."""
    given = {"max_iterations": STEPS, "initial_const": 0.01, "abort_early": False, "learning_rate": 0.02}
    ours = published(fa.attacks.cw, "l2", steps=STEPS, constant=0.01, step_size=0.02)
    compare(ours, adv_lib("carlini_wagner_l2", **given))


def test_ead_is_that_of_foolbox() -> None:
    given = {"steps": STEPS, "abort_early": False, "regularization": 1e-3, "decision_rule": "L1"}
    ours = published(fa.attacks.ead, "l1", steps=STEPS, step_size=0.05, constant=0.1)
    compare(ours, of_foolbox("EADAttack", **given, initial_stepsize=0.05, initial_const=0.1))


def test_pdgd_is_that_of_adv_lib() -> None:
    compare(published(fa.attacks.pdgd, "l2", steps=STEPS), adv_lib("pdgd", num_steps=STEPS))


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_pdpgd_is_that_of_adv_lib(norm: str) -> None:
    given = {"norm": P[norm], "num_steps": STEPS}
    compare(published(fa.attacks.pdpgd, norm, steps=STEPS), adv_lib("pdpgd", **given))


def test_pdpgd_is_that_of_adv_lib_in_l0() -> None:
    """In float64: adv-lib's operator takes the cube root of a difference of two numbers that are nearly
    equal, and what is below its threshold is 0.
    """
    given = {"norm": 0.0, "num_steps": STEPS, "proximal_operator": 23}
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        ours = published(fa.attacks.pdpgd, "l0", steps=STEPS)
        compare(ours, adv_lib("pdpgd", **given), dtype=torch.float64)
    finally:
        torch.set_default_dtype(usual)


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


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_fmn_begins_where_its_authors_do(norm: str) -> None:
    """Ten halvings of the way from the caller's points to x, in each norm in its own way."""
    _, _, y = problem()
    others = images(60, seed=7, dtype=torch.float32)
    said = labels(mlp(dtype=torch.float32), others)
    start = torch.stack([others[said != label][0] for label in y])
    given = {"steps": STEPS}
    name = {"l0": "L0FMNAttack", "l1": "L1FMNAttack", "l2": "L2FMNAttack", "linf": "LInfFMNAttack"}[norm]
    theirs = of_foolbox(name, "attacks/fmn.py", **given, starting_points=start)
    compare(published(fa.attacks.fmn, norm, **given, starts=start), theirs)


def test_ddn_is_that_of_adv_lib() -> None:
    ours = lambda model, x, y: fa.attacks.ddn(model, x, y, fa.L2(inf), steps=STEPS)  # noqa: E731
    compare(ours, adv_lib("ddn", levels=None, steps=STEPS))
