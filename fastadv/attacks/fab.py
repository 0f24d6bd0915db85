"""FAB: projections onto linearized boundaries that stay near the clean sample (Croce and Hein 2020)."""

from collections.abc import Callable
from functools import partial
from math import inf, isfinite
from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, ops, rng
from fastadv._checks import check_number, check_share
from fastadv.attacks import core
from fastadv.attacks.methods.bisection import Interval
from fastadv.attacks.methods.full_batches import side_by_side
from fastadv.attacks.methods.geometry import like, norm, width
from fastadv.attacks.methods.hyperplane import Boundary, largest_others, nearest_boundary
from fastadv.attacks.methods.start import RESTART
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize, check_step_size

# points on the way from x to the nearest success that are tried at the end, and how far each lies beyond the
# place where the margin should vanish, as a share of what is left
FINAL, BEYOND = 3, 0.1
# In the first EXPLORED of its steps, a search that came no nearer by a hundredth in IDLE of them goes to the
# corner of the box that the normal points to, and approaches anew from there. Of 99 digits and a net trained
# at L-inf 0.3, 44 instead of 61 are then robust in L2 at 1.6, and 38 instead of 58 in L1 at 6 (100 steps).
# An approach from there takes the steps of RETURN, without which an undefended net looks more robust.
IDLE, NEARER, EXPLORED = 6, 0.99, 0.4
RETURN = {"linf": 60, "l2": 30, "l1": 80}
UNREACHABLE = 1e30  # as the lack of a hyperplane

# (search, logits [n, K]) -> int64 [n, C], the classes to which boundaries are looked at
Rivals = Callable[[core.Search, Tensor], Tensor]


class _Rows(Interval):
    points: Tensor
    explores: Tensor
    idle: Tensor
    shortest: Tensor
    leaves: Tensor
    others: Tensor
    rival: Tensor
    restart_radius: Tensor
    nearest: Tensor
    below: Tensor
    above: Tensor
    share: Tensor


@core.registered(needs="classes", kind="minimum", random=True, paper="Croce and Hein 2020")
@core.tested(quick={"steps": 3, "restarts": 4}, oracle={"steps": 20})
@core.takes_common(norms=("linf", "l2", "l1"), steps=1, classes=1)
def fab(
    model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *, steps: int = 100, restarts: int = 1,
    targeted: bool = False, classes: int | None = 9, bias: float = 0.1, overshoot: float = 1.05,
    backward: float = 0.9, restart_radius: StepSize | None = None, seed: int = 0,
    **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Minimize ||z - x|| over adversarial z in the box, by projections onto linearized boundaries.

    With the nearest boundary taken for a hyperplane, z <- (1 - a) * (z + overshoot * d) + a * (x + overshoot
    * d_x), where d and d_x are the least displacements of z and x to the hyperplane in the box, and a =
    min(||d|| / (||d|| + ||d_x||), bias). Where the decision then changes, z <- x + backward * (z - x). With
    targets or a criterion, the one boundary is where its margin is zero.

    Args:
        threat: Linf, L2 or L1; the radius is inf or the largest distance of interest, a number or [B].
        steps: projections in each restart, >= 1; 100 as in the paper.
        restarts: attempts. The first starts at x, the others at random points nearer than the best success.
        targeted: attack each of the nearest classes separately, `steps` projections each, with one backward
            pass a step; otherwise each step goes to the nearest boundary of all, with a pass for each class.
        classes: how many other classes, those with the largest logits, are attacked, >= 1; None is all.
        bias: the largest weight of the projection of x, in [0, 1].
        overshoot: the factor of the displacements, >= 1.
        backward: the share of the displacement that is kept after a success, in (0, 1].
        restart_radius: restarts begin at random points within half of this distance, or of that of the
            nearest success if it is less: a number or [B], >= 0, in input units; None is 0.3 (Linf), 1 (L2)
            or 5 (L1) widths of the box. AutoAttack gives its radius.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.fab(model, x, y, fa.Linf(float("inf")), steps=20)
        >>> bool(out.success.all()), bool((out.distance < 0.3).all())
        (True, True)

    Source:
        Croce and Hein 2020, "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack"
        (arXiv 1907.02044), algorithm 1.
    """
    check_share("bias", bias, zero=True, one=True)
    check_number("overshoot", overshoot, 1)
    check_share("backward", backward, one=True)
    if restart_radius is None:
        restart_radius = RESTART[threat.norm] * width(threat)
    else:
        restart_radius = check_step_size(restart_radius, x, "restart_radius")
    longest = torch.as_tensor(restart_radius, device=x.device if isinstance(x, Tensor) else None)

    # a box with an infinite end has no corner
    corners = isfinite(threat.box[1] - threat.box[0])
    explored = min(EXPLORED * steps, steps - RETURN[threat.norm]) if corners else 0

    def rule(search: core.Search[_Rows]) -> None:
        rows = search.rows

        def each_class(here: core.Search[_Rows], numbers: list[int]) -> None:
            here.rows.restart_radius = rows.restart_radius.repeat(len(numbers))
            here.rows.rival = torch.cat([rows.others[:, number, None] for number in numbers])
            project(here, numbers, lambda some, logits: some.rows.rival)

        # the distance of random starts, whatever the other runs find meanwhile
        longest_way = search.per_sample(longest)
        rows.restart_radius = torch.where(search.best.success, search.best.distance, inf)
        rows.restart_radius = rows.restart_radius.minimum(longest_way.to(rows.restart_radius)).clamp_max(
            torch.finfo(rows.restart_radius.dtype).max
        )
        if targeted and search.targets is None and search.problem.criterion is core.WRONG:
            logits = search.decide(search.x, judge=False).logits
            rows.others = largest_others(logits, search.y, classes)
            side_by_side(search, rows.others.shape[1], each_class)
        else:
            project(search, [0], lambda some, logits: largest_others(logits, some.y, classes))
        _shorten(search)

    def project(search: core.Search[_Rows], numbers: list[int], rivals: Rivals) -> None:
        rows, broken, step = search.rows, bool(search.restart), 0
        rows.points = _start(search, numbers)
        rows.idle = torch.zeros_like(search.ids)
        rows.shortest = torch.full_like(rows.restart_radius, inf)
        rows.leaves = rows.explores = torch.zeros_like(search.ids, dtype=torch.bool)
        while step < steps and not broken:
            broken = _approach(search, rivals, step)
            step += 1
        assert search.problem.clean is not None
        one = search.targets is not None or search.problem.criterion is not core.WRONG
        gradients = 1 if one or step == steps else rivals(search, search.problem.clean).shape[1]
        name = "fab", targeted, classes, bias, overshoot, backward
        before = partial(_explore, step)
        take = partial(_step, rivals)
        core.repeat(search, take, steps - step, name, passes=(2, gradients), before=before)
        if not broken:
            search.decide(rows.points)

    def _explore(first: int, number: int, search: core.Search[_Rows]) -> None:
        """Tell step `number` after the `first` ones whether samples may leave for a corner."""
        search.rows.explores = torch.full_like(search.rows.leaves, first + number < explored)

    def _approach(search: core.Search[_Rows], rivals: Rivals, step: int) -> bool:
        """Take a step before which there was no success; return whether there is one now."""
        rows, near, broken = search.rows, _near(search, rivals), False
        if step:
            rows.points, broken = _back(search, near.look), bool(near.look.adversarial.any())
            near = _near(search, rivals) if broken else near
        _explore(step, 0, search)
        _move(search, near)
        if broken:
            rows.points = _back(search, search.decide(rows.points))
        return broken

    def _step(rivals: Rivals, search: core.Search[_Rows]) -> None:
        """Take a step, and draw successes back towards x."""
        _move(search, _near(search, rivals))
        search.rows.points = _back(search, search.decide(search.rows.points))

    def _near(search: core.Search[_Rows], rivals: Rivals) -> Boundary:
        return nearest_boundary(search, search.rows.points, lambda logits: rivals(search, logits))

    def _move(search: core.Search[_Rows], near: Boundary) -> None:
        """Project the points and x onto the boundary, and mix both."""
        rows = search.rows
        rows.leaves = (rows.idle >= IDLE) & rows.explores
        points, x, order = near.look.x_adv, search.x, threat.order
        lack_of_x = near.lack + (near.normal * (points - x)).flatten(1).sum(1)
        ahead_lack = torch.where(rows.leaves, UNREACHABLE, near.lack)
        normal, lack = torch.cat([near.normal, near.normal]), torch.cat([ahead_lack, lack_of_x])
        both = ops.to_hyperplane(torch.cat([points, x]), normal, lack, threat.norm, threat.box)
        length, length_of_x = norm(both, order).chunk(2)
        weight = (length / (length + length_of_x).clamp_min(1e-12)).clamp_max(bias)
        weight = like(torch.where(rows.leaves, 0.0, weight), x)
        ahead, ahead_of_x = (torch.cat([points, x]) + overshoot * both).chunk(2)
        rows.points = torch.lerp(ahead, ahead_of_x, weight.to(x)).clamp_(*threat.box)

    def _back(search: core.Search[_Rows], look: core.Look) -> Tensor:
        """Return the points of `look`, successes drawn back; counts idle steps, anew for what leaves."""
        rows = search.rows
        length = norm(look.x_adv - search.x, threat.order).to(rows.shortest)
        length = torch.where(look.adversarial, length, inf)
        rows.idle = torch.where(rows.leaves | (length < NEARER * rows.shortest), 0, rows.idle + 1)
        rows.shortest = torch.where(rows.leaves, inf, rows.shortest.minimum(length))
        further = search.x + backward * (look.x_adv - search.x)
        return torch.where(like(look.adversarial, further), further, look.x_adv)

    def _start(search: core.Search[_Rows], numbers: list[int]) -> Tensor:
        if not search.restart:
            return search.x.clone()
        count = search.x[0].numel()
        kind = rng.uniform if threat.norm == "linf" else rng.normal
        parts = zip(numbers, search.ids.chunk(len(numbers)), strict=True)
        draws = [kind(count, rng.derive(search.seed, "fab", search.restart, i), ids) for i, ids in parts]
        away = torch.cat(draws).view(search.x.shape).to(search.x)
        away = search.problem.masked(search.x + (2 * away - 1 if threat.norm == "linf" else away)) - search.x
        size = search.rows.restart_radius.to(away) / norm(away, threat.order).clamp_min(1e-12) / 2
        return (search.x + like(size, away) * away).clamp_(*threat.box)

    return core.run(
        model, x, y, threat, rule, rows=_Rows, steps=steps, minimum=True, restarts=restarts, seed=seed,
        **common,
    )  # fmt: skip


def _shorten(search: core.Search[_Rows]) -> None:
    """Try points between x and the nearest success, by false position on the margins at both ends."""
    rows, margin = search.rows, search.problem.margin
    search.leave(~search.best.success)
    rows.nearest = search.best.x_adv.clone()
    assert search.problem.clean is not None
    rows.below = losses.loss_value(search.problem.clean, search.y, margin, search.targets)
    rows.low, rows.high = search.full(0.0), search.full(1.0)
    look = search.score(rows.nearest, margin)
    rows.above = look.loss
    for _ in range(FINAL):
        zero = (rows.below / (rows.below - rows.above)).to(rows.low).nan_to_num(0.5).clamp(0, 1)
        rows.share = torch.lerp(rows.low, rows.high, zero + BEYOND * (1 - zero))
        points = search.x + like(rows.share.to(search.x), search.x) * (rows.nearest - search.x)
        look = search.score(points, margin)
        met = look.adversarial
        rows.low, rows.high = torch.where(met, rows.low, rows.share), torch.where(met, rows.share, rows.high)
        rows.below = torch.where(met, rows.below, look.loss)
        rows.above = torch.where(met, look.loss, rows.above)
