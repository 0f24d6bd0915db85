"""The search over the radius: by hand on attacks that break at a known radius, and on linear models."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.attacks import AttackResult, Status, bim, minimum_radius
from fastadv.attacks.minimum_radius import FIRST
from fastadv.threat import L0, THREATS, Linf, Threat

from .contract.cases import two_classes
from .halfspaces import nearest
from .nets import images, labels, mlp

pytestmark = pytest.mark.slow


def plane(size: int) -> tuple[torch.nn.Sequential, Tensor]:
    """A linear model of D = 784, and samples of class 0 with saturated pixels."""
    x = images(size, (1, 28, 28))
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))
    return two_classes(x, 3.0)[0], x


bim_one = partial(bim, steps=1)


class Recorded:
    """bim, and the radii it was called with."""

    def __init__(self, **options: Any) -> None:
        self.radii: list[Tensor] = []
        self.given: list[dict[str, Any]] = []
        self.options = options

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Threat, **given: Any) -> AttackResult:
        assert isinstance(threat.radius, Tensor)
        self.radii.append(threat.radius.clone())
        self.given.append(given)
        return bim(model, x, y, threat, **self.options, **given)


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
        for given, radii in zip(attack.given, attack.radii, strict=True)
        for number, radius in zip(given["ids"].tolist(), radii.tolist(), strict=True)
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

    def late(model: Any, x: Tensor, y: Tensor, threat: Threat, **given: Any) -> AttackResult:
        assert isinstance(threat.radius, Tensor)
        radii.append(threat.radius)
        steps = 1 if bool((threat.radius >= 8 * least).all()) else 0
        return bim(model, x, y, threat.with_radius(1.5 * least), steps=steps, **given)

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
        assert all(torch.equal(each, each.floor()) for each in inner.radii)


def test_a_gradient_that_is_always_zero_is_told() -> None:
    net, x = mlp(), images(3)
    for model, flat in ((net, False), (lambda z: net(z.round()), True)):
        y = model(x).argmax(1)
        out = minimum_radius(model, x, y, Linf(1e-4), attack=bim_one)
        assert (out.status == Status.HELD).all()
        assert (out.zero_gradient == flat).all()
