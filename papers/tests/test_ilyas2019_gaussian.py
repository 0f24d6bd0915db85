"""The closed forms of section 4, the ball, and adversarial training, against computations by hand."""

import math

import pytest
import torch

from papers.ilyas2019 import gaussian
from papers.ilyas2019.theory import train


def covariance(size, seed):
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn @ drawn.T + 0.3 * torch.eye(size, dtype=torch.float64)


def test_a_whitened_sample_has_exactly_these_moments():
    wanted = covariance(4, 0)
    drawn = gaussian.whitened(wanted, 50, seed=3)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(drawn.T @ drawn / 50, wanted)
    assert not torch.equal(drawn, gaussian.whitened(wanted, 50, seed=4))


@pytest.mark.parametrize("seed", range(2))
def test_the_loss_that_is_added_in_many_dimensions(seed):
    each = covariance(5, seed)
    penalty = 1.5 / float(torch.linalg.eigvalsh(each)[0])
    found = gaussian.measured_vulnerability(each, penalty, 40, seed)
    assert found == pytest.approx(float(gaussian.vulnerability(each, penalty)), rel=1e-9)


@pytest.mark.slow
def test_the_robust_covariance_is_where_the_loss_is_flat():
    """In each eigendirection (C s - 1)^2 = C^2 s s*, from the derivative of C s* / (C s - 1) + log s."""
    true, penalty = covariance(4, 1), 0.7
    learned = gaussian.robust_covariance(true, penalty)
    gap = penalty * learned - torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(gap @ gap, penalty**2 * true @ learned)
    assert float(torch.linalg.eigvalsh(gap)[0]) > 0
    mean = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    found_mean, found = gaussian.learned_under(mean + gaussian.whitened(true, 40, 1), penalty)
    torch.testing.assert_close(found, learned, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_mean, mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("radius", [0.2, 3.0])
def test_the_worst_point_of_a_ball_is_found_by_trying(radius):
    each, v = covariance(2, 2), torch.tensor([[0.3, -1.0], [4.0, 0.2], [-0.01, 0.02]]).double()
    around = torch.linspace(0, 2 * math.pi, 50_001, dtype=torch.float64)
    circle = radius * torch.stack([around.cos(), around.sin()], 1)
    points = v[:, None] + circle
    losses = (points * torch.linalg.solve(each, points.transpose(1, 2)).transpose(1, 2)).sum(2)
    delta = gaussian.worst(v, each, radius)
    torch.testing.assert_close(delta.norm(dim=1), torch.full((3,), radius, dtype=torch.float64))
    found = v + delta
    loss = (found * torch.linalg.solve(each, found.T).T).sum(1)
    torch.testing.assert_close(loss, losses.amax(1), rtol=1e-6, atol=0)
    assert not gaussian.worst(v, each, 0.0).any()


@pytest.mark.slow
def test_adversarial_training_learns_the_robust_solution():
    true, mean = torch.tensor([[4.0, 1.0], [1.0, 0.8]]).double(), torch.tensor([1.5, 0.5]).double()
    signed = mean + gaussian.whitened(true, 200)
    model = train(signed, 1.0, epochs=80, steps=8)
    for found, expected in zip(model.learned(), gaussian.fit_in_ball(signed, 1.0), strict=True):
        assert gaussian.apart(found, expected) < 0.02
    assert gaussian.apart(model.learned()[1], true) > 0.2
