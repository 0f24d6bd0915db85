"""The shortest way to a hyperplane in the box, against closed forms and bisection in float64."""

from math import inf

import pytest
import torch
from torch import Tensor

from fastadv.ops import to_hyperplane
from tests.refusals import refuses

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


def assert_least(points: Tensor, normal: Tensor, d: Tensor, norm: str, tolerance: float) -> None:
    """The optimality conditions of the least d with this gain, for lacks > 0."""
    length, size = d.abs(), normal.abs()
    room = torch.where(normal > 0, BOX[1] - points, torch.where(normal < 0, points - BOX[0], 0.0))
    if norm == "l1":  # what moves weighs no less than what has room left
        moved = torch.where(length > 0, size, inf).amin(1)
        assert (moved >= torch.where(length < room - tolerance, size, 0.0).amax(1)).all()
        return
    pace = size if norm == "l2" else (size > 0).double()
    level = torch.where(pace > 0, length / pace, 0.0).amax(1, keepdim=True)
    torch.testing.assert_close(length, (level * pace).minimum(room), rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [1, 16, 784, 3072])
@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_nearest_point(norm: str, width: int, share: float, dtype: torch.dtype) -> None:
    points, normal, whole = draw(6, width)
    points, normal = points.to(dtype), normal.to(dtype)
    lack = whole * share
    d = to_hyperplane(points, normal, lack.to(dtype), norm, BOX).double()
    exact = dtype == torch.float64
    alive = whole > 0
    gained = (normal.double() * d).sum(1)
    torch.testing.assert_close(gained[alive], lack[alive], rtol=1e-9 if exact else 1e-4, atol=0)
    low, high = BOX[0] - 1e-6, BOX[1] + 1e-6
    assert ((points + d >= low) & (points + d <= high)).all()
    rows = (points[alive].double(), normal[alive].double(), d[alive])
    assert_least(*rows, norm, 1e-9 if exact else 1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_normal_that_is_not_finite_moves_nothing(norm: str, bad: float) -> None:
    points, normal, whole = draw(3, 60)
    points, normal, lack = points.float(), normal.float(), 0.1 * whole
    normal[1, 7] = bad
    d = to_hyperplane(points, normal, lack, norm, BOX)
    assert (d[1] == 0).all()
    assert (d[[0, 2]] != 0).any(1).all()


@pytest.mark.parametrize(
    ("norm", "half"),
    [
        ("l1", [0.0, 0.5, 0.0, 0.0, 0.0]),
        ("l2", [0.0, 0.25, 0.0, -0.25, 0.0]),
        ("linf", [0.25, 0.25, 0.0, -0.25, -0.25]),
    ],
)
def test_weights_from_the_least_to_the_largest(norm: str, half: list[float]) -> None:
    """Half of what the largest floats can gain, and more than all weights can."""
    end = torch.finfo(torch.float32)
    normal = torch.tensor([[end.smallest_normal * 2**-23, end.max, 0.0, -end.max, -1e-40]])
    for lack, expected in ((0.5 * end.max, half), (2 * end.max, [0.75, 0.75, 0.0, -0.25, -0.25])):
        points, wanted = torch.full((1, 5), 0.25), torch.tensor([lack], dtype=torch.float64)
        d = to_hyperplane(points, normal, wanted, norm)
        torch.testing.assert_close(d, torch.tensor([expected]), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_point_beyond_an_edge_does_not_move_there(norm: str, dtype: torch.dtype) -> None:
    """Rounding may carry points out of the box; they have no room left."""
    points = torch.tensor([[1.25, 0.5, -0.25]], dtype=dtype)
    normal = torch.tensor([[1.0, 1.0, -1.0]], dtype=dtype)
    d = to_hyperplane(points, normal, torch.tensor([0.25], dtype=dtype), norm)
    assert d.tolist() == [[0.0, 0.25, 0.0]]


def test_wrong_arguments() -> None:
    x, lack = torch.zeros(2, 3), torch.zeros(2)
    refuses("norm: expected one of linf, l2, l1, got 'l0'", to_hyperplane, x, x, lack, "l0")
    refuses(r"lack: expected floating \[2\], got .* \[2, 1\]", to_hyperplane, x, x, lack[:, None], "l2")
    refuses("normal: expected", to_hyperplane, x, x[:1], lack, "l2")
    refuses("box", to_hyperplane, x, x, lack, "l2", (1.0, 0.0))
