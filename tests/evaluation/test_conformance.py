"""Ours beside theirs: who found what, and when chance explains it."""

import json
import sys
from dataclasses import replace
from functools import partial
from math import inf, nan

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.adapters.foreign import Foreign
from fastadv.attacks import AttackResult
from fastadv.evaluation import _conformance_cases as known
from fastadv.evaluation.conformance import Comparison, Conformance, Run, Way, conformance, measured
from tests.adapters.nets import problem
from tests.evaluation.weakened import WEAKENINGS, weakened

module = sys.modules[conformance.__module__]  # the package has the function by that name


def compared(ours: int, theirs: int) -> Comparison:
    run = Run("pgd", 0.5, 0.7, inf, 1, 1, 0.1)
    return Comparison("net", "pgd", "linf", run, run, 40, tuple(range(ours)), tuple(range(theirs)))


def test_the_exact_sign_test() -> None:
    assert compared(0, 0).p == 1
    assert compared(0, 3).p == 1 / 8
    assert compared(1, 2).p == 4 / 8
    assert compared(3, 0).p == 1
    assert [compared(0, 5).weaker(count) for count in (1, 2)] == [True, False]
    many = Conformance((compared(0, 8), compared(0, 5), compared(9, 9)), {})
    assert many.weaker == many.comparisons[:1]
    assert many.to_dict()["weaker"] == [["net", "pgd", "linf", "pgd"]]


def test_on_which_samples_one_side_is_ahead() -> None:
    one, other = torch.tensor([0.5, inf, 1.0, 0.0, 1.0]), torch.tensor([inf, 0.5, 1.005, 0.0, 1.02])
    assert module._ahead(one, other, minimum=True) == (0, 4)
    assert module._ahead(other, one, minimum=True) == (1,)
    # ways: the second is within the tolerance, a success counts however near, and x itself says nothing
    one, other = torch.tensor([0.5, 0.505, 1.0, 1.0, 0.5]), torch.tensor([0.3, 0.5, 0.995, nan, nan])
    assert module._ahead(one, other, minimum=False) == (0, 2, 3)
    assert module._ahead(other, one, minimum=False) == ()


def test_how_far_points_have_come() -> None:
    # the margin is 2 - z: x = 0 has 2, and a success is beyond 2
    def model(z: Tensor) -> Tensor:
        return torch.cat([torch.full_like(z, 2), z], 1)

    x, y = torch.zeros(5, 1), torch.zeros(5, dtype=torch.long)
    points = torch.tensor([[0.0], [0.5], [1.0], [-1.0], [3.0]])
    out = fa.attacks.fgsm(model, x[:, :1], y, fa.Linf(0.5, box=(-9, 9)))
    out = replace(out, x_adv=points, success=points.flatten() > 2)
    way = Way(model, x, y, None)(out)
    assert way[0].isnan()
    assert way[1:].tolist() == [0.25, 0.5, -0.5, 1]


def test_a_run_is_measured() -> None:
    model, x, y = problem()

    def call() -> AttackResult:
        return fa.attacks.fgsm(model, x, y, fa.Linf(0.05))

    run, distance = measured("fgsm", call, Way(model, x, y, None), minimum=True)
    out = call()
    assert run.success <= run.way <= 1
    assert run.success == out.success.double().mean()
    assert (run.forwards, run.backwards) == (out.forwards, out.backwards)
    assert distance[-1] == 0  # wrong already
    assert torch.equal(distance.isfinite(), out.success)
    assert run.memory is None or run.memory >= 0


def fake(monkeypatch: pytest.MonkeyPatch, theirs: object) -> None:
    """A package whose one attack is this."""
    wrapped = lambda kind: partial(theirs)  # type: ignore[call-overload]  # noqa: E731
    monkeypatch.setitem(known.PACKAGES, "torchattacks", ("fastadv.attacks", wrapped))
    case = known.Case("fgsm", "linf", lambda radius: fa.attacks.fgsm,
                      {"torchattacks": lambda radius: ("pgd", {})})  # fmt: skip
    monkeypatch.setattr(module, "cases", lambda: (case,))


def test_a_stronger_rival_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = problem(40)
    larger = lambda model, x, y, threat, seed: fa.attacks.pgd(  # noqa: E731
        model, x, y, fa.Linf(20 * threat.radius), steps=5, seed=seed
    )
    fake(monkeypatch, larger)
    told = conformance({"net": (model, {"linf": 0.002})}, x, y, packages=["torchattacks"])
    assert len(told.weaker) == 1
    assert len(told.comparisons[0].only_theirs) > 10
    assert told.comparisons[0].only_ours == ()
    json.dumps(told.to_dict())


def test_points_outside_the_ball_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = problem(40)
    far = Foreign(lambda kind, net, x, y, threat, targets: torch.rand(x.shape), fa.attacks.fgsm)
    fake(monkeypatch, far)
    (one,) = conformance({"net": (model, {"linf": 0.02})}, x, y, packages=["torchattacks"]).comparisons
    assert one.only_theirs == ()
    assert len(one.only_ours) > 3
    assert one.theirs.success == 1 / 40  # the one that was wrong
    assert one.theirs.flags == ("39 points outside the threat were refused",)


def test_a_weakened_attack_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = problem(40)
    fake(monkeypatch, partial(fa.attacks.fgsm))
    (case,) = module.cases()
    weak = replace(case, ours=lambda radius: partial(fa.attacks.pgd, steps=1, step_size=0.001))
    monkeypatch.setattr(module, "cases", lambda: (weak,))
    subjects = {"net": (model, {"linf": 0.02})}
    peers = {"fgsm": lambda model, x, y, threat, seed: fa.attacks.fgsm(model, x, y, threat)}
    monkeypatch.setitem(known.PACKAGES, "torchattacks", ("fastadv.attacks", lambda kind: peers["fgsm"]))
    (one,) = conformance(subjects, x, y, packages=["torchattacks"]).weaker
    assert one.ours.success < one.theirs.success


def test_an_error_of_theirs_is_told_and_nothing_else_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = problem()

    def broken(*given: object, **options: object) -> None:
        raise ZeroDivisionError("theirs")

    fake(monkeypatch, broken)
    told = conformance({"net": (model, {"linf": 0.002})}, x, y, packages=["torchattacks"])
    assert told.comparisons == ()
    assert told.failed == {"net, torchattacks pgd, linf": "ZeroDivisionError: theirs"}


def test_nothing_to_compare() -> None:
    model, x, y = problem()
    subject = {"net": (model, {"linf": 0.1})}
    with pytest.raises(fa.InputError, match="packages: expected some of torchattacks, foolbox, art, secmlt"):
        conformance(subject, x, y, packages=["cleverhans"])
    with pytest.raises(fa.InputError, match="got none"):
        conformance(subject, x, y, packages=["foolbox"], only=["nothing"])
    with pytest.raises(fa.InputError, match="got none"):
        conformance(subject, x, y, packages=[])


@pytest.mark.slow
def test_with_the_real_packages() -> None:
    packages = known.installed()
    if not packages:
        pytest.skip("none of torchattacks, foolbox, ART and SecML-Torch is installed")
    model, x, y = problem()
    radii = {"linf": 0.02, "l2": 0.1, "l1": 0.5, "l0": 1.0}
    told = conformance({"net": (model, radii)}, x, y, only=["fgsm", "bim", "deepfool", "ddn"])
    assert told.failed == {}
    assert {one.theirs.attack.split()[0] for one in told.comparisons} == {*packages}
    assert told.weaker == ()


def bowl(z: Tensor) -> Tensor:
    """Two logits that meet nowhere; they are nearest in the middle of the box, where steps must be short."""
    right = 1 + ((z - 0.5) ** 2 * torch.linspace(1, 30, z.shape[1])).sum(1, keepdim=True)
    return torch.cat([right, torch.zeros_like(right)], 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2 steps of 40", "projected on 0.9 of the radius"])
def test_a_weakness_is_noticed_where_no_success_tells(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(30, dtype=torch.long)
    subjects, attack = {"bowl": (bowl, {"linf": 0.3})}, WEAKENINGS[name].attack
    ours = partial(getattr(fa.attacks, attack), steps=40)
    fake(monkeypatch, ours)  # the rival is ours at full strength
    case = known.Case(attack, "linf", lambda radius: ours, {"torchattacks": lambda radius: ("pgd", {})})
    monkeypatch.setattr(module, "cases", lambda: (case,))
    (same,) = conformance(subjects, x, y, packages=["torchattacks"]).comparisons
    assert (same.only_ours, same.only_theirs) == ((), ())
    with weakened(WEAKENINGS[name]):
        (one,) = conformance(subjects, x, y, packages=["torchattacks"]).comparisons
    assert one.weaker(250)
    assert one.ours.success == one.theirs.success == 0


def test_slow_rivals_get_few_samples_and_targets_are_the_next_class(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = problem(module.FEW + 3)
    asked: list[Tensor] = []

    def theirs(model, x, y, threat, seed, targets):  # type: ignore[no-untyped-def]
        asked.append(targets)
        return fa.attacks.fgsm(model, x, y, threat, targets=targets)

    fake(monkeypatch, theirs)
    (case,) = module.cases()
    monkeypatch.setattr(module, "cases", lambda: (replace(case, targeted=True, slow=("torchattacks",)),))
    (one,) = conformance({"net": (model, {"linf": 0.1})}, x, y, packages=["torchattacks"]).comparisons
    assert one.samples == module.FEW
    assert torch.equal(asked[0], (y[: module.FEW] + 1) % 5)
    assert one.ours.way == one.theirs.way


def test_of_ours_x_itself_is_no_way_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of theirs it says nothing. And the seed is that of both sides."""
    model, x, y = problem(20)
    seeds: list[int] = []

    def theirs(model, x, y, threat, seed):  # type: ignore[no-untyped-def]
        seeds.append(seed)
        return fa.attacks.pgd(model, x, y, threat, steps=5, seed=seed)

    fake(monkeypatch, theirs)
    (case,) = module.cases()
    idle = lambda model, x, y, threat: fa.attacks.fgsm(model, x, y, fa.Linf(0.0))  # noqa: E731
    monkeypatch.setattr(module, "cases", lambda: (replace(case, ours=lambda radius: idle),))
    (one,) = conformance(
        {"net": (model, {"linf": 0.001})}, x, y, packages=["torchattacks"], seed=7
    ).comparisons
    assert one.ours.success == one.theirs.success == 1 / 20  # the one that was wrong
    assert one.only_theirs == tuple(range(19))
    assert seeds == [7]


def test_each_package_that_has_the_attack_is_a_rival() -> None:
    peers = {"foolbox": lambda radius: ("a.One", {}), "art": lambda radius: ("Two", {})}
    case = known.Case("pgd", "linf", lambda radius: fa.attacks.pgd, peers, slow=("art",))
    told = [(name, slow) for name, _, slow in case.rivals(("torchattacks", "art", "foolbox"), 0.1)]
    assert told == [("art Two", True), ("foolbox One", False)]
