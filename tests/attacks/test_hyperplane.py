"""The shortest way to a hyperplane in the box, against closed forms and bisection in float64."""

from math import inf

import pytest
import torch
from torch import Tensor

from fastadv.attacks import _hyperplane
from fastadv.attacks._hyperplane import to_hyperplane

from .contract.cases import boundary_distance

NORMS = {"linf": inf, "l2": 2.0, "l1": 1.0}
BOX = (-1.0, 2.0)


def draw(size: int, width: int, seed: int = 0, saturated: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Points, many at the edges of the box; normals of all sizes, with zeros; and what can be gained."""
    generator = torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(size, width, generator=generator, dtype=torch.float64)

    points = (noise() * (1 + 3 * saturated) + 0.5).clamp(*BOX)
    normal = noise() * torch.exp(noise()) * (noise() > -1)
    room = torch.where(normal > 0, BOX[1] - points, points - BOX[0])
    return points, normal, (normal.abs() * room).sum(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [1, 16, 784, 3072])
@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_nearest_point(norm: str, width: int, share: float, dtype: torch.dtype) -> None:
    points, normal, whole = draw(6, width)
    points, normal = points.to(dtype), normal.to(dtype)
    lack = whole * share
    d = to_hyperplane(points, normal, lack.to(dtype), NORMS[norm], BOX).double()
    exact = dtype == torch.float64
    alive = whole > 0
    gained = (normal.double() * d).sum(1)
    torch.testing.assert_close(gained[alive], lack[alive], rtol=1e-9 if exact else 1e-4, atol=0)
    low, high = BOX[0] - 1e-6, BOX[1] + 1e-6
    assert ((points + d >= low) & (points + d <= high)).all()
    best = torch.stack([boundary_distance(points[i : i + 1].double(), normal[i].double(), lack[i : i + 1], norm, BOX)[0] for i in range(6)])  # fmt: skip  # noqa: E501
    away = torch.linalg.vector_norm(d, NORMS[norm], dim=1)
    torch.testing.assert_close(away[alive], best[alive], rtol=1e-9 if exact else 1e-4, atol=0)


@pytest.mark.parametrize("order", NORMS.values(), ids=str)
def test_downhill_is_uphill_of_the_opposite(order: float) -> None:
    points, normal, whole = draw(5, 60)
    down = to_hyperplane(points, normal, -0.1 * whole, order, BOX)
    torch.testing.assert_close(down, to_hyperplane(points, -normal, 0.1 * whole, order, BOX), rtol=0, atol=0)
    reachable = ((normal * down).sum(1) + 0.1 * whole).abs() < 1e-9 * whole
    assert reachable.any()


@pytest.mark.parametrize("order", NORMS.values(), ids=str)
def test_what_cannot_be_gained(order: float) -> None:
    """Beyond all gain: the farthest corner. A lack that is not finite, a zero lack or normal: no move."""
    points, normal, whole = draw(5, 60)
    corner = torch.where(normal > 0, BOX[1] - points, BOX[0] - points) * (normal != 0)
    far = to_hyperplane(points, normal, 1.5 * whole, order, BOX)
    torch.testing.assert_close(far, corner, rtol=0, atol=1e-12)
    still = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 1.0], dtype=torch.float64)
    normal[4] = 0
    assert (to_hyperplane(points, normal, still, order, BOX) == 0).all()


@pytest.mark.parametrize("order", NORMS.values(), ids=str)
def test_a_space_without_edges(order: float) -> None:
    """The closed form: lack over the dual norm."""
    points, normal, _ = draw(5, 60)
    lack = torch.linspace(-2, 3, 5, dtype=torch.float64)
    d = to_hyperplane(points, normal, lack, order, (-inf, inf))
    dual = {inf: 1.0, 2.0: 2.0, 1.0: inf}[order]
    torch.testing.assert_close((normal * d).sum(1), lack, rtol=1e-9, atol=0)
    away = torch.linalg.vector_norm(d, order, dim=1)
    torch.testing.assert_close(away, lack.abs() / torch.linalg.vector_norm(normal, dual, dim=1))


@pytest.mark.parametrize("order", NORMS.values(), ids=str)
def test_a_row_stands_alone(order: float) -> None:
    points, normal, whole = draw(7, 300)
    points, normal, lack = points.float(), normal.float(), (whole * torch.linspace(0.01, 0.99, 7)).float()
    shape = (7, 3, 10, 10)
    together = to_hyperplane(points.view(shape), normal.view(shape), lack, order, BOX)
    assert together.shape == shape
    for i in range(7):
        alone = to_hyperplane(points[i : i + 1], normal[i : i + 1], lack[i : i + 1], order, BOX)
        torch.testing.assert_close(alone.view(shape[1:]), together[i], rtol=0, atol=1e-6)


def test_equal_weights_share_nothing_in_l1() -> None:
    """Any vertex is optimal; the first coordinates are used up."""
    d = to_hyperplane(torch.zeros(1, 4), torch.ones(1, 4), torch.tensor([2.5]), 1.0, (0.0, 1.0))
    assert torch.equal(d, torch.tensor([[1.0, 1.0, 0.5, 0.0]]))


@pytest.mark.parametrize("order", [2.0, inf], ids=str)
def test_as_many_rounds_as_a_gpu_takes_are_enough(order: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights over twelve orders of magnitude, rooms over six: the fixed number of rounds is exact too."""
    generator = torch.Generator().manual_seed(1)
    normal = 10 ** (12 * torch.rand(8, 3072, generator=generator, dtype=torch.float64) - 6)
    points = 1 - 10 ** (-6 * torch.rand(8, 3072, generator=generator, dtype=torch.float64))
    lack = (normal * (1 - points)).sum(1) * torch.linspace(0.001, 0.9999, 8, dtype=torch.float64)
    asked: list[int] = []
    plain = Tensor.all

    def counted(self: Tensor) -> Tensor:
        asked.append(1)
        return plain(self)

    monkeypatch.setattr(Tensor, "all", counted)
    d = to_hyperplane(points, normal, lack, order, (0.0, 1.0))
    monkeypatch.undo()
    assert 2 <= len(asked) <= _hyperplane.ROUNDS
    torch.testing.assert_close((normal * d).sum(1), lack, rtol=1e-9, atol=0)


@pytest.mark.parametrize("order", [1.0, 2.0, inf])
@pytest.mark.parametrize("scale", [1e-30, 1e30], ids=["tiny", "huge"])
def test_the_size_of_the_weights_does_not_matter(order: float, scale: float) -> None:
    draw = torch.Generator().manual_seed(0)
    points, normal = torch.rand(4, 784, generator=draw), torch.randn(4, 784, generator=draw)
    lack = torch.full((4,), 3.0)
    plain = to_hyperplane(points, normal, lack, order, BOX)
    scaled = to_hyperplane(points, normal * scale, lack.double() * scale, order, BOX)
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)
