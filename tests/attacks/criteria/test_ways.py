"""Where a criterion is met in several ways, a search by gradients shares its steps among them."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks import ATTACKS, Beyond, Unless
from fastadv.attacks.core import Search, run
from fastadv.threat import THREATS

from ..contract.cases import Brief
from ..core.test_leading import near
from ..nets import Case, images
from .kinds import kinds

INF = float("inf")
ALL = [Brief(name, card) for name, card in ATTACKS.items() if not card.requires]


@pytest.mark.parametrize("side", [-0.5, 0.5])
def test_the_one_step_of_fgsm_is_that_of_bim(side: float) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double()
    x, threat = images(6), fa.Linf(0.05, (-1, 2))
    step = 0.05 * net[1].weight.detach().abs().sum()
    run = {"criterion": Beyond(float(step))}
    fgsm = fa.attacks.fgsm(net, x, net(x).detach() + side * step, threat, **run)
    bim = fa.attacks.bim(net, x, net(x).detach() + side * step, threat, steps=1, step_size=0.05, **run)
    assert fgsm.success.all()
    assert torch.equal(fgsm.x_adv, bim.x_adv)


NEAREST = [case for case in ALL if case.entry.minimal and case.entry.knowledge == "gradient"]


@pytest.mark.slow
@pytest.mark.parametrize("case", NEAREST, ids=lambda case: case.name)
def test_nearest_examples_lie_behind_a_band_without_classes(case: Case) -> None:
    data, more = fa.data.load("digits", "test", limit=40), {"steps": 80} if case.takes("steps") else {}
    out = case(near, data.x, data.y, THREATS[case.entry.norms[0]](INF), criterion=Unless(-1), **more)
    assert out.success.float().mean() >= 0.97


def test_a_named_loss_of_a_search_for_the_nearest_is_0_at_the_boundary() -> None:
    kind = kinds()["unless"]
    for attack in (fa.attacks.fmn, fa.attacks.pdpgd, fa.attacks.pdgd):
        for loss in ("ce", "ce_sharp", "bce"):
            with pytest.raises(fa.InputError, match="expected None, one of margin, cw, dlr, or a function"):
                attack(kind.model, kind.x, kind.y, fa.L2(INF), steps=3, loss=loss)
        run = partial(attack, kind.model, kind.x, kind.y, fa.L2(INF), steps=20, criterion=kind.criterion)
        assert torch.equal(run().x_adv, run(loss="margin").x_adv)


def test_starts_of_legs_follow_each_other_over_restarts_and_odd_steps_lose_none() -> None:
    """Two attempts of each run lead to the likeliest classes, from starts 0 and 1, then 2 and 3."""
    from fastadv.attacks.methods import ascent

    seen: list[tuple[int, int, list[int]]] = []

    def legs(search: Search) -> Any:
        for number, moves in taken(search):
            seen.append((number, moves, search.aims.tolist()))
            yield number, moves

    taken, net = ascent.legs, kinds()["sure"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ascent, "legs", legs)
        more = {"steps": 5, "restarts": 2, "stop_early": False, "criterion": net.criterion}
        fa.attacks.pgd(net.model, net.x[:1], net.y[:1], fa.Linf(0.01), **more)
    order = net.model(net.x[:1])[0].argsort(descending=True).tolist()
    rivals = [one for one in order if one != int(net.y[0])]
    assert seen == [(number, 3 - number % 2, [rivals[number % len(rivals)]]) for number in range(4)]


def test_the_ways_of_each_restart_share_all_of_its_steps() -> None:
    shares: list[tuple[int, int]] = []
    kind = kinds()["number"]
    ask = partial(run, kind.model, kind.x, kind.y, fa.Linf(0.1), criterion=kind.criterion)
    ask(lambda search: shares.append((search.restart, search.steps)), steps=5, restarts=2)
    assert shares == [(0, 3), (0, 2), (1, 3), (1, 2)]


@pytest.mark.parametrize("name", ["fmn", "ddn", "pdpgd", "pdgd"])
def test_a_loss_of_ones_own_has_all_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = kinds()["unless"]
    ask = partial(ATTACKS[name].run, kind.model, kind.x, kind.y, fa.L2(INF), criterion=kind.criterion)
    asked = ask(steps=9, loss=kind.criterion.margin)
    monkeypatch.setattr(Unless, "ways", lambda criterion, *about: (criterion,))
    assert torch.equal(ask(steps=9, loss=kind.criterion.margin).x_adv, asked.x_adv)
