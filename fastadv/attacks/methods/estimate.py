"""Gradients estimated from scores of antithetic probes, and the loop that nes and spsa share."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks.core import Rule, Search
from fastadv.errors import InputError

# (search, estimated gradient like points, points, step) -> the next points
Move = Callable[[Search, Tensor, Tensor, int], Tensor]


def steps_for(queries: int, directions: int) -> int:
    """Return the steps, at least one, for which the queries last: two a direction, and one for the point."""
    each = 2 * directions + 1
    if queries < each:
        raise InputError(
            f"queries: expected at least {each}, a step with {directions} directions, got {queries}; "
            "give more queries or fewer directions"
        )
    return queries // each


def estimated_ascent(
    name: str, draw: Callable[..., Tensor], steps: int, directions: int, probe: float,
    loss: losses.Loss | None, move: Move,
) -> Rule:  # fmt: skip
    """Return `steps` moves from x along estimates of the gradient of the loss; None is the margin."""
    # probes may lie outside ball and box, and are no candidates; the points that they lead to are

    def rule(search: Search) -> None:
        measure = search.problem.leading if loss is None else loss
        points = search.start()
        for step in range(steps):
            shape = (len(points), directions, *points.shape[1:])
            away = draw(directions * points[0].numel(), rng.derive(search.seed, name), search.ids, step)
            away = away.to(points.dtype).mul_(probe).view(shape)
            if search.problem.mask is not None:
                away = away.where(search.problem.mask.unsqueeze(1), 0.0)
            # written in place: they are large, and each copy of them takes a tenth of a small network's pass
            probes, center = points.new_empty(shape[0], 2 * directions, *shape[2:]), points.unsqueeze(1)
            torch.add(center, away, out=probes[:, :directions])
            torch.sub(center, away, out=probes[:, directions:])
            look = search.score(probes, measure, judge=False)
            above, below = look.loss.to(away.dtype).nan_to_num(0.0, 0.0, 0.0).chunk(2, 1)
            shares = (above - below) / (2 * probe * probe * directions)
            gradient = torch.einsum("nc,nc...->n...", shares, away)
            points = search.score(move(search, gradient, points, step), measure).x_adv

    return rule
