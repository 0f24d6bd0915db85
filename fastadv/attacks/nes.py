"""Steps along gradients estimated from scores: NES (Ilyas et al. 2018) and SPSA (Uesato et al. 2018)."""

from collections.abc import Callable
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv._checks import check_share
from fastadv.attacks import core
from fastadv.attacks.methods.adam import Moments, adam
from fastadv.attacks.methods.ascent import length_of_share, step_size_for
from fastadv.attacks.methods.geometry import like, positive, width
from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize

# (search, estimated gradient like points, points, step) -> the next points
Move = Callable[[core.Search, Tensor, Tensor, int], Tensor]


class _Rows(core.Rows):
    momentum: Tensor


@core.registered(knowledge="score", random=True, paper="Ilyas et al. 2018", tolerance=1.5)
@core.tested(quick={"queries": 210, "directions": 10}, oracle={"queries": 20200, "directions": 100})
@core.takes_common(norms=("linf", "l2"), finite=True, queries=1, directions=1)
def nes(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int = 10_000,
    directions: int = 25, probe: float | None = None, step_size: StepSize | None = None, decay: float = 0.9,
    loss: losses.Loss | None = None, stop_early: bool = True, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by projected ascent along estimated gradients.

    The gradient is the mean of (L(z + probe u) - L(z - probe u)) / (2 probe) u over normal directions u.
    Steps follow m <- decay * m + (1 - decay) * gradient, as in the authors' code, from x.

    Args:
        threat: Linf or L2; the radius is finite, a number or [B].
        queries: the most samples that pass the model for each image; at least 2 * directions + 1. 10,000 as
            in the authors' code.
        directions: for each step, an integer >= 1; each is probed on both sides, so that 25 are the 50
            samples of the authors' code.
        probe: standard deviation of a probe's coordinates, a number > 0; None is 0.001 of the box's width.
        step_size: a number or [B], in input units; None is 2.5 * radius / steps.
        decay: weight of the estimates so far, in [0, 1).
        loss: a name of `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized.
            None is the margin of the criterion.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Ilyas et al. 2018, "Black-box Adversarial Attacks with Limited Queries and Information" (arXiv
        1804.08598), section 2.
    """
    steps = steps_for(queries, directions)
    away = positive("probe", probe, 1e-3 * width(threat))
    check_share("decay", decay, zero=True)
    size = step_size_for(threat, x, steps, 2.5, step_size)
    length = partial(length_of_share, steps=steps, step_size=size, default=step_size is None)

    def move(search: core.Search[_Rows], gradient: Tensor, points: Tensor, step: int) -> Tensor:
        rows = search.rows
        rows.momentum = gradient if not step else rows.momentum.mul_(decay).add_(gradient, alpha=1 - decay)
        return search.threat.step(points, rows.momentum, search.x, length(search))

    rule = estimated_ascent("nes", rng.normal, directions, away, move)
    return core.run(
        model, x, y, threat, rule, rows=_Rows, steps=steps, loss=loss, stop_early=stop_early, seed=seed,
        **common,
    )  # fmt: skip


@core.registered(knowledge="score", random=True, paper="Uesato et al. 2018", tolerance=1.5)
@core.tested(quick={"queries": 210, "directions": 10}, oracle={"queries": 20200, "directions": 100})
@core.takes_common(norms=("linf",), finite=True, queries=1, directions=1)
def spsa(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int,
    directions: int = 128, probe: float | None = None, step_size: StepSize | None = None,
    loss: losses.Loss | None = None, stop_early: bool = True, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by Adam on estimated gradients, projected.

    The gradient is the mean of (L(z + probe u) - L(z - probe u)) / (2 probe) u over directions u of random
    signs. The start is x.

    Args:
        threat: ; the radius is inf or the largest distance of interest, a number or [B].
        queries: the most samples that pass the model for each image; at least 2 * directions + 1. The paper
            has another number for each experiment.
        directions: for each step, an integer >= 1; each is probed on both sides.
        probe: how far a probe moves a coordinate, a number > 0. None is 0.01 of the width of the box.
        step_size: a number or [B], of Adam, in input units. None is 2.5 * radius / steps.
        loss: a name of `fastadv.ops.logit_loss`, or a function (logits, y, targets) -> [B]; it is maximized.
            None is the margin of the criterion.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Uesato et al. 2018, "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks" (arXiv
        1802.05666), section 4 and algorithm 1.
    """
    steps = steps_for(queries, directions)
    away = positive("probe", probe, 1e-2 * width(threat))
    size = step_size_for(threat, x, steps, 2.5, step_size)
    length = partial(length_of_share, steps=steps, step_size=size, default=step_size is None)

    def move(search: core.Search, gradient: Tensor, points: Tensor, step: int) -> Tensor:
        unit = adam(search.rows, gradient, step)
        far = length(search)
        if isinstance(far, Tensor) and far.ndim:
            far = like(far, unit).to(unit.dtype)
        return search.threat.project(points + far * unit, search.x)

    rule = estimated_ascent("spsa", rng.signs, directions, away, move)
    return core.run(
        model, x, y, threat, rule, rows=Moments, steps=steps, loss=loss, stop_early=stop_early, seed=seed,
        **common,
    )  # fmt: skip


def steps_for(queries: int, directions: int) -> int:
    """Return the steps, at least one, for which the queries last: two a direction, and one for the point."""
    per_step = 2 * directions + 1
    if queries < per_step:
        raise InputError(
            f"queries: expected at least {per_step}, a step with {directions} directions, got {queries}; "
            "give more queries or fewer directions"
        )
    return queries // per_step


def estimated_ascent(
    name: str, draw: Callable[..., Tensor], directions: int, probe: float, move: Move
) -> core.Rule:
    """Return moves from x along estimates of the gradient of the loss."""
    # probes may lie outside ball and box, and are no candidates; the points that they lead to are

    def rule(search: core.Search) -> None:
        measure = search.plan.loss
        points = search.start()

        def estimate(part: core.Search, rows: Tensor) -> Tensor:
            center, size = points[rows].unsqueeze(1), points[0].numel()
            away = draw(directions * size, rng.derive(part.seed, name), part.ids, step)
            away = away.to(points.dtype).mul_(probe).view(-1, directions, *points.shape[1:])
            if part.problem.mask is not None:
                away = away.where(part.problem.mask.unsqueeze(1), 0.0)
            rises = []
            for ways in torch.split(away, max(1, search.held // (2 * max(1, len(rows)) * size)), 1):
                # written in place: each copy of them takes a tenth of a small network's pass
                number = ways.shape[1]
                probes = ways.new_empty(len(rows), 2 * number, *points.shape[1:])
                torch.add(center, ways, out=probes[:, :number])
                torch.sub(center, ways, out=probes[:, number:])
                look = part.score(probes, measure, judge=False)
                above, below = look.loss.to(away.dtype).nan_to_num(0.0, 0.0, 0.0).chunk(2, 1)
                rises.append(above - below)
            shares = torch.cat(rises, 1) / (2 * probe * probe * directions)
            return torch.einsum("nc,nc...->n...", shares, away)

        for step in range(search.steps):
            gradient = search.in_parts(3 * directions, estimate)
            ends = step + 1 == search.steps or not search.plan.last
            points = search.score(move(search, gradient, points, step), measure, ends).x_adv

    return rule
