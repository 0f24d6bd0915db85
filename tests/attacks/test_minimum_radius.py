"""The search over the radius, and over multiples of what a substitute gives."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult, OutsideTopK, Status, bim, fgsm, minimum_radius, transfer
from fastadv.attacks.minimum_radius import FIRST
from fastadv.engine import freeze
from fastadv.threat import L0, L2, THREATS, Linf, Threat

from .contract.cases import two_classes
from .halfspaces import nearest
from .nets import Counted, images, labels, linear, mlp

pytestmark = pytest.mark.slow


def plane(size: int) -> tuple[torch.nn.Sequential, Tensor]:
    """A linear model of D = 784, and samples of class 0 with saturated pixels."""
    x = images(size, (1, 28, 28))
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))
    return two_classes(x, 3.0)[0], x


bim_one = partial(bim, steps=1)


class Recorded:
    def __init__(self, **options: Any) -> None:
        self.radii: list[Tensor] = []
        self.given: list[dict[str, Any]] = []
        self.options = options

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Threat, **more: Any) -> AttackResult:
        assert isinstance(threat.radius, Tensor)
        self.radii.append(threat.radius.clone())
        self.given.append(more)
        return bim(model, x, y, threat, **self.options, **more)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_radius_grows_to_the_farthest_point_that_the_mask_allows(norm: str) -> None:
    model, x = plane(4)
    with torch.no_grad():  # out of reach
        model[1].bias[0] += 1000  # type: ignore[index]
    mask = torch.arange(784).view(1, 28, 28) < 50
    x[:, mask] = x[:, mask] / 2 + 0.25  # elsewhere there is more room
    attack, threat = Recorded(steps=2), THREATS[norm](torch.inf)
    out = minimum_radius(model, x, torch.zeros(4, dtype=torch.long), threat, attack=attack, mask=mask)
    assert not out.success.any()
    room = torch.where(x > 0.5, -x, 1 - x).where(mask, 0.0)
    last = {
        number: radius
        for options, radii in zip(attack.given, attack.radii, strict=True)
        for number, radius in zip(options["ids"].tolist(), radii.tolist(), strict=True)
    }
    assert [last[number] for number in range(4)] == pytest.approx(threat.distance(x + room, x).tolist())


def test_radii_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubled from the first until broken, then bisected: between what held and the nearest success."""
    model, x = plane(1)
    distance = float(nearest(model, x, torch.tensor([0]), "linf")[0])
    inner = Recorded(steps=1, loss="margin")
    first = distance / 5.3
    monkeypatch.setitem(FIRST, "linf", first)
    out = minimum_radius(model, x, torch.tensor([0]), Linf(torch.inf), attack=inner, searches=4)
    expected = [first, 2 * first, 4 * first, 8 * first]
    low, high = 4 * first, 8 * first
    for _ in range(4):
        middle = (low + high) / 2
        expected.append(middle)
        low, high = (low, middle) if middle > distance else (middle, high)
    assert [float(radius) for radius in inner.radii] == pytest.approx(expected, rel=1e-5)
    assert float(out.distance) == pytest.approx(high, rel=1e-5)


def test_a_nearer_success_than_a_radius_that_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack finds nothing in small balls, and in a large one the point that a small one holds."""
    model, x = plane(1)
    y, radii = torch.zeros(1, dtype=torch.long), []
    least, _ = nearest(model, x, y, "linf")

    def late(model: Any, x: Tensor, y: Tensor, threat: Threat, **more: Any) -> AttackResult:
        assert isinstance(threat.radius, Tensor)
        radii.append(threat.radius)
        steps = 1 if bool((threat.radius >= 8 * least).all()) else 0
        return bim(model, x, y, threat.with_radius(1.5 * least), steps=steps, **more)

    monkeypatch.setitem(FIRST, "linf", 2.5 * float(least))
    out = minimum_radius(model, x, y, Linf(torch.inf), attack=late, searches=3)
    shares = torch.stack([radius / out.distance for radius in radii])
    torch.testing.assert_close(out.distance.double(), 1.5 * least)
    # then between half of that and itself
    expected = torch.tensor([2.5, 5.0, 10.0, 1.125, 1.3125, 1.40625]) / 1.5
    torch.testing.assert_close(shares, expected[:, None].to(shares))


def test_l0_radii_are_whole_numbers_and_end() -> None:
    """And whole numbers count where the radius lies between them."""
    model, x = plane(4)
    inner = Recorded(steps=40, loss="margin")
    y = torch.zeros(4, dtype=torch.long)
    out = minimum_radius(model, x, y, L0(torch.inf), attack=inner, searches=30)
    assert all(torch.equal(radius, radius.round()) for radius in inner.radii)
    assert all((radius >= 1).all() for radius in inner.radii)
    assert len(inner.radii) < 20
    assert (out.distance <= nearest(model, x, y, "l0")[0] + 1).all()
    net, x = mlp(), images(12)
    for radius, most in ((2.5, 2), (0.5, 0)):
        inner = Recorded(steps=4)
        out = minimum_radius(net, x, labels(net, x), L0(radius), attack=inner, searches=4)
        assert out.success.any() == (most > 0)
        assert not out.success.all()
        assert (out.distance[out.success] <= most).all()
        assert all(torch.equal(size, size.floor()) for size in inner.radii)


def test_a_gradient_that_is_always_zero_is_told() -> None:
    net, x = mlp(), images(3)
    for model, flat in ((net, False), (lambda z: net(z.round()), True)):
        out = minimum_radius(model, x, model(x).argmax(1), Linf(1e-4), attack=bim_one)
        assert (out.status == Status.HELD).all()
        assert (out.zero_gradient == flat).all()


SIGN = partial(fgsm, loss="margin")


def pair(classes: int = 2) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """A linear model and a substitute that is nearly right, in D = 784, samples, and labels."""
    model, substitute = linear(classes, 784).double(), linear(classes, 784).double()
    x = images(6, (1, 28, 28))
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))
    with torch.no_grad():
        substitute[1].weight.add_(
            0.002 * torch.randn(classes, 784, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        )
    return model, substitute, x, labels(model, x)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_smallest_multiple(norm: str) -> None:
    model, substitute, x, y = pair()
    crafted = THREATS[norm]({"linf": 0.1, "l2": 1.0, "l1": 60.0}[norm])
    multiples: list[Tensor] = []

    def attack(*args: Any, threat: Any, **more: Any) -> AttackResult:
        assert args[0].model is not model
        out = fgsm(*args, threat=crafted, **more)
        multiples.append(out.x_adv)
        return out

    out = transfer(model, x, y, THREATS[norm](torch.inf), source=substitute, attack=attack, searches=14)
    away = multiples[-1] - x
    unit = away / away.abs().amax((1, 2, 3), keepdim=True)
    # a fine scan of multiples breaks nothing that is nearer
    scales, free = torch.linspace(0, 1, 2001, dtype=torch.float64), THREATS[norm](torch.inf)
    for i in range(len(x)):
        points = (x[i] + scales.view(-1, 1, 1, 1) * unit[i]).clamp(0, 1)
        nearer = free.distance(points, x[i].expand_as(points)) < out.distance[i] * (1 - 1e-4)
        assert (labels(model, points[nearer]) == y[i]).all()
    assert out.success.sum() >= 3
    assert torch.equal(labels(model, out.x_adv) != y, out.success)


def test_the_nearest_of_several_substitutes() -> None:
    model, good, x, y = pair()
    bad = linear(2, 784, seed=5).double()
    with torch.no_grad():  # says what the labels say
        bad[1].weight.copy_(model[1].weight * torch.rand(784, dtype=torch.float64).round())
    one, two = (transfer(model, x, y, L2(torch.inf), source=source, attack=SIGN) for source in (good, bad))
    for order in ([good, bad], (bad, good), nn.ModuleList([good, bad])):
        both = transfer(model, x, y, L2(torch.inf), source=order, attack=SIGN)
        torch.testing.assert_close(both.distance, one.distance.minimum(two.distance))


def test_only_decisions_of_the_model_are_asked() -> None:
    model, substitute, x, y = pair()
    forwards: list[int] = []
    backwards: list[int] = []
    counted = Counted(model, forwards.append, backwards.append)
    frozen = freeze(substitute)
    out = transfer(counted, x, y, Linf(0.5), source=frozen, attack=SIGN, scales=8, searches=3)
    assert out.backwards == sum(backwards) == 0
    assert out.forwards == sum(forwards) == 6 * (8 + 3 + 2)
    assert frozen.backwards == 6


def test_targets_criterion_mask_and_ids_reach_the_attack() -> None:
    model, substitute, x, y = pair(5)
    calls: list[dict[str, Any]] = []

    def attack(*args: Any, **options: Any) -> AttackResult:
        calls.append(options)
        return bim(*args, steps=10, **options)

    mask = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0)) > 0.3
    targets, ids = (y + 1) % 5, torch.arange(6) + 10
    threat = Linf(0.4)
    out = transfer(model, x, y, threat, source=substitute, attack=attack, targets=targets, mask=mask, ids=ids)
    assert torch.equal(calls[0]["targets"], targets)
    assert torch.equal(calls[0]["ids"], ids)
    assert torch.equal(out.x_adv[:, ~mask], x[:, ~mask])
    assert out.success.any()
    assert torch.equal(labels(model, out.x_adv) == targets, out.success)
    top = transfer(model, x, y, threat, source=substitute, attack=attack, criterion=OutsideTopK(2))
    assert calls[-1]["criterion"] == OutsideTopK(2)
    assert torch.equal(top.success, ~(model(top.x_adv).topk(2).indices == y[:, None]).any(1))
    assert top.success.any()


def test_small_coordinates_go_on_where_the_largest_is_at_the_edge() -> None:
    """The one that decides moves a tenth as far as the other, which the box stops."""

    class Second(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 1] - 0.8, torch.zeros_like(x[:, 1])], 1)

    def attack(model: Any, x: Tensor, y: Tensor, threat: Any, **more: Any) -> AttackResult:
        out = bim(model, x, y, threat, steps=1, **more)
        return replace(out, x_adv=x + torch.tensor([0.2, 0.02], dtype=x.dtype))

    x, y = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([1])
    out = transfer(Second(), x, y, Linf(0.6), source=Second(), attack=attack)
    assert out.success.all()
    assert float(out.x_adv[0, 0]) == 1
    assert float(out.distance) == 0.5


def test_a_substitute_without_a_perturbation_finds_nothing() -> None:
    model, _, x, y = pair()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(784, 2)).double()
    with torch.no_grad():
        flat[1].weight.zero_()
        flat[1].bias.zero_()
    out = transfer(model, x, y, L2(1.0), source=flat, attack=partial(bim, steps=3, loss="margin"))
    assert (out.status == Status.HELD).all()
    assert torch.equal(out.x_adv, x)
