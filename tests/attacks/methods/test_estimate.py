"""nes and spsa: what they ask of the model, by hand; queries, keys and wrong arguments."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks import AttackResult, nes, spsa
from fastadv.threat import L2, Linf

from ..nets import images, labels, mlp
from ..watched import watched

BOTH = pytest.mark.parametrize("run", [nes, spsa])


def margin(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits = model(x)
    own = logits.gather(1, y[:, None])
    return (logits.scatter(1, y[:, None], -math.inf).amax(1, keepdim=True) - own).squeeze(1)


@BOTH
def test_two_steps_by_hand(run: Callable[..., AttackResult]) -> None:
    model, x, ids = mlp(), images(3), torch.tensor([4, 9, 2])
    y = labels(model, x)
    function, batches = watched(model)
    radius, probe, size = 0.01, 0.003, 0.004
    run(
        function, x, y, Linf(radius), queries=14, directions=3, probe=probe, step_size=size, seed=5, ids=ids,
        stop_early=False,
    )  # fmt: skip
    probed = [place for place, batch in enumerate(batches) if len(batch) == 18]
    assert len(probed) == 2
    points, mean, square = x, 0.0, 0.0
    for step, place in enumerate(probed):
        draw = rng.normal if run is nes else rng.signs
        ways = draw(3 * 16, rng.derive(5, run.__name__), ids, step).double().view(3, 3, 1, 4, 4)
        expected = torch.stack([points[:, None] + probe * ways, points[:, None] - probe * ways], 1).flatten(
            1, 2
        )
        torch.testing.assert_close(batches[place], expected.flatten(0, 1))
        gradient = torch.zeros_like(x)
        for c in range(3):
            above = margin(model, points + probe * ways[:, c], y)
            below = margin(model, points - probe * ways[:, c], y)
            gradient += ((above - below) / (2 * probe)).view(3, 1, 1, 1) * ways[:, c] / 3
        if run is nes:
            mean = gradient if not step else 0.9 * mean + 0.1 * gradient
            moved = points + size * mean.sign()
        else:
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            unit = mean / (1 - 0.9 ** (step + 1)) / (square / (1 - 0.999 ** (step + 1))).sqrt()
            moved = points + size * unit
        points = moved.clamp(x - radius, x + radius).clamp(0, 1).detach()
        torch.testing.assert_close(batches[place + 1], points)


def test_probes_and_the_length_of_a_step_are_those_of_the_mask() -> None:
    model, x = mlp(), images(2).sub(0.5).mul(0.1).add(0.5)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    function, batches = watched(model)
    nes(
        function, x, labels(model, x), L2(0.1), queries=5, directions=2, step_size=0.01, mask=mask,
        stop_early=False,
    )  # fmt: skip
    place = next(place for place, batch in enumerate(batches) if len(batch) == 8)
    away = batches[place].view(2, 4, *x.shape[1:]) - x[:, None]
    assert torch.equal((away.abs() > 1e-6).any(1), mask)
    moved = batches[place + 1] - x
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((2,), 0.01, dtype=x.dtype))
