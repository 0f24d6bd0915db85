"""The check of the gradient itself: closed forms, cuts of all kinds, honest networks, what it costs."""

from copy import deepcopy
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv import Linf
from fastadv.attacks import indicators, pgd
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import probes
from fastadv.attacks.masking.flags import SIGNS
from fastadv.attacks.masking.masked_modules import masked_within
from fastadv.attacks.masking.verdict import STAND_IN
from fastadv.engine import freeze
from fastadv.models import Binarized, bpda
from tests.attacks.masking.test_masked_modules import HONEST
from tests.attacks.nets import images, labels, linear, mlp
from tests.defenses import AT_LOGITS, AT_RANDOM, Defended, Detach, PartlyDetached, Pointwise
from tests.engine.planted import Changed
from tests.parity.models import WALL

LIMIT = SIGNS["incorrect_gradient"].limit


def case(model: Any, x: Tensor) -> Task:
    return Task.of(model, x, torch.zeros(len(x), dtype=torch.long), Linf(0.1))


def digits(side: int = 8) -> Tensor:
    return torch.rand(8, 1, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("factor", [1.0, 0.6, 0.0, -1.0, 1.5])
def test_a_gradient_of_another_length_misses_as_computed(factor: float) -> None:
    """What is left over of each half of a way is (1 - factor) of the change."""
    net, x = linear().double(), images(9)
    frozen = freeze(lambda x: net(Changed.apply(x, lambda gradient: factor * gradient)))
    missing = probes.missing_gradient(case(frozen, x), 3)
    assert missing == pytest.approx(min((1 - factor) ** 2, 1.0), abs=1e-12)


def test_missing_pixels_are_counted_by_what_they_do() -> None:
    """The sum of two pixels has two slopes of 1: without one, x moves on two ways of known ends."""
    x, zeros = torch.full((5, 1, 1, 2), 0.5, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return torch.cat([PartlyDetached(0.5)(x).flatten(1).sum(1, keepdim=True), zeros[: len(x)]], 1)

    shares = []
    for draw in (0, 2):
        way = probes.rng.uniform(2, 7, torch.arange(5), draw) - 0.5
        weight = probes.rng.uniform(2, 7, torch.arange(5), draw + 1)[:, 0] - 0.5
        over, change = (weight * way[:, 0]).square(), (weight * way.sum(1)).square()
        shares += [float(over.sum() / change.sum()), float((over / change).median())]
    assert probes.missing_gradient(case(freeze(model), x), 7) == pytest.approx(min(*shares, 1), rel=1e-4)


def check(model: Any, x: Tensor) -> tuple[float, tuple[str, ...]]:
    frozen = freeze(model)
    modules = masked_within(frozen, x, probes.NAMING)
    return probes.missing_gradient(case(frozen, x), 0), tuple(module.name for module in modules)


QUIET: dict[str, tuple[nn.Module, Tensor]] = {
    **{name: (net, digits()) for name, net in HONEST.items()},
    **{name: (Defended(HONEST["cnn"], before=make()), digits()) for name, make in AT_RANDOM.items()},
    **{name: (Defended(HONEST["cnn"], after=make()), digits()) for name, make in AT_LOGITS.items()},
    "ties": (HONEST["kinks"], digits().round()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUIET, *WALL])
def test_honest_networks_miss_nothing(name: str) -> None:
    model, x = QUIET[name] if name in QUIET else (WALL[name].load(None), digits(28))  # type: ignore[arg-type]
    missing, masked = check(model, x)
    assert missing < LIMIT / 5
    assert masked == ()
    copied = deepcopy(model).eval()
    assert check(lambda x: copied(x), x)[1] == ()


@pytest.mark.slow
@pytest.mark.parametrize(("share", "axis"), [(0.5, -1), (0.25, -1), (0.5, 1), (0.25, 1)])
def test_a_part_that_is_cut_is_seen_and_named(share: float, axis: int) -> None:
    model = deepcopy(HONEST["cnn"]).eval()
    place = 0 if axis < 0 else 2
    masked = nn.Sequential(*model[:place], PartlyDetached(share, axis), *model[place:])
    missing, names = check(masked, digits())
    assert missing > 2 * LIMIT or axis < 0
    assert names == (str(place),)
    missing, names = check(lambda x: masked(x), digits())
    assert missing > 2 * LIMIT or names == ("",)
    x = images(20, dtype=torch.float32).repeat(1, 1, 2, 2)
    y = labels(masked, x)
    signs = indicators(masked, x, y, Linf(0.02), results={"pgd": pgd(masked, x, y, Linf(0.02), steps=5)})
    assert signs.values["incorrect_gradient"] == 1
    assert f"bpda(model, {{'{place}': 'identity'}})" in signs.verdict
    assert list(signs.masked) == [str(place)]


@pytest.mark.slow
def test_a_gradient_that_is_known_to_be_anothers_is_not_compared() -> None:
    x = images(20, dtype=torch.float32)
    net = mlp(dtype=torch.float32)
    mended = bpda(nn.Sequential(Detach(), net), {"0": lambda x: 0.2 * x})
    torch.manual_seed(0)  # the changes of the last one hardly correlate with its gradients
    linear = Binarized(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    for model, at in ((mended, x), (Binarized(net, 0.5), x), (linear, digits())):
        signs = indicators(model, at, labels(model, at), Linf(0.05))
        assert (signs.values["incorrect_gradient"], signs.masked) == (0, {})
        assert model is not mended or signs.unseen == {"square": STAND_IN}


def test_what_cannot_be_compared() -> None:
    x = digits()
    for model, share in ((nn.Sequential(Detach(), HONEST["cnn"]), 1), (lambda x: 0 * x.flatten(1)[:, :3], 0)):
        assert probes.missing_gradient(case(freeze(model), x), 0) == share


def test_naming_keeps_to_its_passes_and_raises_nothing() -> None:
    model, x = nn.Sequential(PartlyDetached(0.5), *HONEST["cnn"]), digits()
    for most, named in ((2.0, ()), (9.0, ("0",)), (probes.NAMING, ("0",))):
        frozen = freeze(model)
        frozen(x)
        before = frozen.forwards + frozen.backwards
        assert tuple(module.name for module in masked_within(frozen, x, most)) == named
        assert 2 * len(x) <= frozen.forwards + frozen.backwards - before <= most * len(x) + 1
    calls = count()

    def once(x: Tensor) -> Tensor:
        if next(calls) > 1:
            raise ValueError("called out of turn")
        return HONEST["cnn"](x)

    assert masked_within(freeze(Pointwise(once)), x, probes.NAMING) == ()
