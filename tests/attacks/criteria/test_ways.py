"""Where a criterion is met in several ways, a search by gradients shares its steps among them."""

from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import ATTACKS, Beyond, Unless
from fastadv.attacks.core import Search, run
from fastadv.attacks.core.common import passes
from fastadv.threat import THREATS
from tests.attacks.masking.nets import honest

from ..contract.cases import Brief, wide
from ..nets import Case, images
from .kinds import Kind, kinds

INF = float("inf")
ALL = [Brief(name, card) for name, card in ATTACKS.items() if not card.requires]


class Mean(nn.Module):
    """The mean of the pixels, or minus that."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return self.side * x.flatten(1).mean(1, keepdim=True)


def number(side: int = 1) -> Kind:
    """Return pixels near 1, whose mean can fall alone."""
    return Kind(Mean(side), 1 - images(4) / 50, None, Beyond(0.1), lambda z, y: (z - y).abs()[:, 0] > 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("case", [case for case in ALL if case.entry.serves_all], ids=lambda case: case.name)
def test_one_number_is_led_up_and_down(case: Case, side: int) -> None:
    kind, norm = number(side), case.entry.norms[0]
    at_x = kind.model(kind.x).detach()
    far = {"linf": 0.3, "l2": 1.2, "l1": 4.8, "l0": 8}[norm]
    threat = THREATS[norm](INF if case.entry.minimal else far)
    more = {"queries": 4040} if case.takes("queries") else {}
    for y in (None, at_x, at_x + 0.03 * side):
        if case.name == "fgsm" and y is not None and torch.equal(y, at_x + 0.03 * side):
            continue  # its one step keeps the side of the first error
        if case.name == "fgsm" or case.entry.knowledge == "none":
            continue
        assert case(kind.model, kind.x, y, threat, criterion=kind.criterion, **more).success.all(), y


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


@cache
def of_number() -> Kind:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double()
    return Kind(net, images(6), None, Beyond(0.3), lambda z, y: (z - y).abs()[:, 0] > 0.3)


# attacks whose steps have several gradients each, that run others, or whose number the data decides
OWN_COUNT = ("autoattack", "deepfool", "superdeepfool", "fab", "minimum_radius")


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_budgets_hold_under_every_criterion(case: Case) -> None:
    norm, rows = case.entry.norms[0], [0, 0]
    threat = wide(case, norm, scale=0.01) if norm != "l0" or case.entry.minimal else THREATS["l0"](1)
    planned = passes({**{key: one.default for key, one in case.entry.parameters.items()}, **case.quick})

    def model(x: Tensor) -> Tensor:
        out: Tensor = kind.model(x)
        rows[0], rows[1] = rows[0] + len(x), rows[1] + len(x) * out.requires_grad
        return out

    for kind in (*kinds().values(), of_number()):
        if case.entry.needs == "classes" and kind.criterion.outputs == "any":
            continue
        rows[:] = 0, 0
        case(model, kind.x, kind.y, threat, criterion=kind.criterion)
        forwards, backwards = (count / len(kind.x) for count in rows)
        if "queries" in case.quick:
            assert forwards <= case.quick["queries"] * case.quick.get("restarts", 1) + 3, kind.criterion
        elif case.entry.knowledge == "gradient" and case.name not in OWN_COUNT:
            assert backwards <= planned + 1, kind.criterion


def near(net: nn.Module) -> Any:
    """Return the net with a class of abstention between the classes."""

    def logits(x: Tensor) -> Tensor:
        z: Tensor = net(x)
        return torch.cat([z, z.topk(2, 1).values[:, 1:] + 1], 1)

    return logits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm", "options"),
    [("fmn", "l2", {"steps": 60}), ("fmn", "linf", {"steps": 60}), ("fmn", "l1", {"steps": 60}),
     ("deepfool", "l2", {}), ("deepfool", "linf", {}), ("superdeepfool", "l2", {}),
     ("fab", "l2", {"steps": 40}), ("cw", "l2", {"steps": 50, "searches": 4}), ("ddn", "l2", {"steps": 60}),
     ("ead", "l1", {"steps": 50, "searches": 4}), ("sigma_zero", "l0", {"steps": 80}),
     ("pdpgd", "l2", {"steps": 80}), ("pdgd", "l2", {"steps": 80}), ("lbfgs", "l2", {"steps": 30})],
)  # fmt: skip
def test_nearest_examples_lie_behind_a_band_without_classes(
    name: str, norm: str, options: dict[str, Any]
) -> None:
    data = fa.data.load("digits", "test", limit=40)
    run = partial(ATTACKS[name].run, near(honest("standard")), data.x, data.y, THREATS[norm](INF), **options)
    out = run(criterion=Unless(-1))
    assert out.success.float().mean() >= 0.97


def test_a_named_loss_of_a_search_for_the_nearest_is_0_at_the_boundary() -> None:
    kind = kinds()["unless"]
    for attack in (fa.attacks.fmn, fa.attacks.pdpgd, fa.attacks.pdgd):
        for loss in ("ce", "ce_sharp", "bce"):
            with pytest.raises(fa.InputError, match="expected None, one of margin, cw, dlr, or a function"):
                attack(kind.model, kind.x, kind.y, fa.L2(INF), steps=3, loss=loss)
        runs = [
            attack(kind.model, kind.x, kind.y, fa.L2(INF), steps=20, criterion=kind.criterion, **more)
            for more in ({}, {"loss": "margin"})
        ]
        assert torch.equal(*(out.x_adv for out in runs))


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
    kind = number()
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
