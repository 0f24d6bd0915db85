"""The passes of each sample, counted by hand, and what a sample gets that has spent its own."""

from math import inf

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.evaluation._metered import Metered

PLANE = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
X = torch.tensor([[0.9, 0.5], [0.2, 0.8], [0.5, 0.1]])
# logits of X: (0.9, 0.5, -0.65), (0.2, 0.8, 0.2), (0.5, 0.1, -0.45): the last is wrong already
Y = torch.tensor([0, 1, 1])
IDS = torch.tensor([5, 8, 20])


class Plane(nn.Module):
    """Logits x @ PLANE; it counts the rows that it is really asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.plane = nn.Parameter(PLANE)
        self.register_buffer("rows", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        return x @ self.plane


def metered(passes: int, norm: type[fa.Linf] | type[fa.L2] = fa.Linf) -> Metered:
    made = Metered(Plane(), X, Y, IDS, norm(0.1), passes)
    made.verdict(X)
    return made


def spent(made: Metered) -> list[tuple[int, int]]:
    return list(zip(made.forwards_of.tolist(), made.backwards_of.tolist(), strict=True))


def test_each_kind_of_pass_has_its_price():
    made = metered(100)
    assert spent(made) == [(1, 0)] * 3
    made(X[[2, 0]])
    assert spent(made) == [(2, 0), (1, 0), (2, 0)]
    made.input_gradient(X[1:], Y[1:])
    assert spent(made) == [(2, 0), (2, 1), (3, 1)]
    _, gradients = made.jacobian(X[:1], torch.eye(3)[None])
    assert torch.allclose(gradients[0], PLANE.T)
    made.jacobian(X[:1], lambda logits: torch.eye(3)[None, :2])
    assert spent(made) == [(4, 5), (2, 1), (3, 1)]
    assert (made.forwards, made.backwards) == (9, 7)


def test_rows_belong_to_the_nearest_sample_and_the_first_of_them_pass_first():
    made = metered(3)
    points = torch.stack([X[1] + 0.01, X[1] + 0.02, X[0] - 0.01, X[1] + 0.03])
    logits = made(points)
    # sample 1 had two passes left: the last row, which would be its third, gets a sure and correct answer
    assert torch.allclose(logits[:3], points[:3] @ PLANE)
    assert logits[3].tolist() == [0, 3, 0]
    assert spent(made) == [(2, 0), (3, 0), (1, 0)]
    assert made.forwards == 6


def test_rows_belong_to_whom_the_attack_says():
    made = metered(100)
    made.asks_for(IDS[[2, 0]], 2)
    # in two parts, as many candidates come
    made(X[[1, 1]])
    assert spent(made) == [(1, 0), (1, 0), (3, 0)]
    made(X[[1, 1]])
    assert spent(made) == [(3, 0), (1, 0), (3, 0)]
    # nothing is known of the next rows: as many as samples are theirs in order
    made(X[[1, 1, 1]])
    assert spent(made) == [(4, 0), (2, 0), (4, 0)]
    # numbers that the batch does not have mean nothing
    made.asks_for(torch.tensor([0, 8]))
    made(X[[1, 1]])
    assert spent(made) == [(4, 0), (4, 0), (4, 0)]


def test_who_has_spent_all_gets_no_gradient_and_costs_no_pass():
    made = metered(5)
    value, logits, gradient = made.input_gradient(X, Y)
    assert bool((gradient != 0).any(1).all())
    made.input_gradient(X[:1], Y[:1])
    assert spent(made)[0] == (3, 2)
    value, logits, gradient = made.input_gradient(X, Y)
    assert gradient[0].tolist() == [0, 0]
    assert logits[0].tolist() == [3, 0, 0]
    assert (value[0].item(), bool((gradient[1:] != 0).any(1).all())) == (0, True)
    assert spent(made) == [(3, 2)] * 3
    rows = made.model.rows.clone()
    assert made(X).argmax(1).tolist() == Y.tolist()
    assert not made.input_gradient(X, Y)[2].any()
    assert made.jacobian(X, torch.eye(3).expand(3, 3, 3))[1].shape == (3, 3, 2)
    assert torch.equal(made.model.rows, rows)
    # but the truth stays the truth, and is not counted
    assert made.verdict(X).argmax(1).tolist() == [0, 1, 0]
    assert spent(made) == [(3, 2)] * 3


def test_a_jacobian_that_is_too_dear_is_zero_but_its_forward_is_not_free():
    made = metered(4)
    logits, gradients = made.jacobian(X[:1], torch.eye(3)[None, :2])
    assert bool(gradients.any())
    made = metered(4)
    logits, gradients = made.jacobian(X[:1], torch.eye(3)[None])
    assert (logits[0].tolist(), bool(gradients.any()), spent(made)[0]) == ([3, 0, 0], False, (1, 0))


@pytest.mark.parametrize("norm", [fa.Linf, fa.L2])
def test_the_nearest_wrong_point_of_all_passes_is_kept(norm):
    made = metered(100, norm)
    assert made.distance.tolist() == [inf, inf, 0]
    points = torch.tensor([[0.6, 0.8], [0.7, 0.72], [0.5, 0.9], [0.9, 0.8], [-0.45, 0.8]])
    made(points)
    distance = norm(1).distance(points[1:2], X[:1])
    # the first two are wrong for sample 0, the second nearer; the third is right for sample 1, the fourth
    # right for 0, and the last, which is wrong for 1, outside the box
    assert torch.allclose(made.distance, torch.tensor([distance.item(), inf, 0], dtype=torch.float64))
    assert torch.equal(made.x_adv, torch.stack([points[1], X[1], X[2]]))
    made.input_gradient(torch.tensor([[0.4, 0.39]]), Y[1:2])
    assert made.distance[1] == inf  # nearest to x 2, which is wrong already
    assert made.distance[2] == 0


def test_points_beyond_the_limit_never_count():
    made = metered(3)
    for point in (X[:1], X[:1]):
        made(point)
    made(torch.tensor([[0.7, 0.72]]))
    made.verdict(torch.tensor([[0.7, 0.72], [0.2, 0.8], [0.5, 0.1]]))
    assert made.distance.tolist() == [inf, inf, 0]
