"""Class boundaries taken for hyperplanes: the nearest one, and the shortest way there in the box."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fastadv.attacks._geometry import like
from fastadv.attacks._search import Look, Search
from fastadv.attacks.criterion import WRONG

# the order of the dual norm
DUAL = {inf: 1.0, 2.0: 2.0, 1.0: inf}
# Newton steps where the host does not wait for the device to ask whether they are over
ROUNDS = 32


@dataclass(frozen=True, eq=False)
class Boundary:
    """To first order, the boundary of a success that is nearest to points: {z: <normal, z - point> = lack}.

    normal is like the points [n, ...]; lack [n] is negative beyond the boundary. size [n] is the dual norm of
    the normal, distance [n] = |lack| / size; 0 where that is not defined. `look` is the model's answer there.
    """

    look: Look
    lack: Tensor
    normal: Tensor
    size: Tensor
    distance: Tensor


def nearest_boundary(search: Search, points: Tensor, rivals: Callable[[Tensor], Tensor]) -> Boundary:
    """The nearest of the boundaries between the label and its rivals, int64 [n, C] made of the logits [n, K].

    Where there are targets or another criterion, the only boundary is that of its margin.
    """
    if search.targets is not None or search.problem.criterion is not WRONG:
        look = search.gradient(points, search.problem.margin)
        assert look.loss is not None
        assert look.gradient is not None
        lacks, normals = -look.loss[:, None], look.gradient.unsqueeze(1)
    else:
        look = search.jacobian(points, lambda logits: _gains(logits, search.y, rivals(logits)))
        assert look.gradient is not None
        lacks = look.logits.gather(1, search.y[:, None]) - look.logits.gather(1, rivals(look.logits))
        normals = look.gradient
    sizes = torch.linalg.vector_norm(normals.flatten(2), DUAL[search.threat.order], dim=2)
    distances = torch.where(sizes > 0, lacks.abs().to(sizes.dtype) / sizes, inf).nan_to_num_(inf, inf)
    distance, place = distances.min(1)
    row = torch.arange(len(lacks), device=lacks.device)
    distance = torch.where(distance.isfinite(), distance, 0.0)
    return Boundary(look, lacks[row, place], normals[row, place], sizes[row, place], distance)


def steepest(normal: Tensor, size: Tensor, order: float) -> Tensor:
    """The direction of unit norm, of `order` 2 or inf, along normal [n, ...], whose dual norm is size [n]."""
    if order == inf:
        return normal.sign()
    return normal * like(torch.where(size > 0, 1 / size, 0.0), normal)


def to_hyperplane(
    points: Tensor, normal: Tensor, lack: Tensor, order: float, box: tuple[float, float]
) -> Tensor:
    """The least displacement d like points [n, ...] with <normal, d> = lack and points + d in the box.

    Least in the norm of `order` 1, 2 or inf. The box holds the points, and a lack [n] may have either sign.
    Where the hyperplane does not meet the box, points + d is the point of the box nearest to it; where the
    lack is not finite or the normal zero, d is zero. Exact up to rounding: for order 1 the coordinates of the
    largest weight are used up first; for 2 and inf, d = min(t * pace, room) for each coordinate, and Newton's
    method on the one unknown t, whose function is concave and piecewise linear, ends at the solution.
    """
    fine = torch.promote_types(points.dtype, torch.float32)
    flat, weight = points.flatten(1).to(fine), normal.flatten(1).to(fine)
    # over the largest weight, so that the squares of tiny and huge weights have room
    largest = weight.abs().amax(1, keepdim=True)
    weight, lack = torch.where(largest > 0, weight / largest, 0.0), (lack[:, None] / largest).to(fine)
    # in these coordinates the way to the hyperplane leads up
    up = weight * torch.where(lack.isfinite(), lack, 0.0).sign()
    wanted = torch.where(lack.isfinite(), lack.abs(), 0.0)
    room = torch.where(up > 0, box[1] - flat, torch.where(up < 0, flat - box[0], 0.0)).clamp_min_(0.0)
    size = up.abs()
    length = _greedy(size, room, wanted) if order == 1 else _level(size, room, wanted, order)
    return length.copysign_(up).reshape(points.shape).to(points.dtype)


def _greedy(size: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Lengths [n, D] in [0, room] of the least sum with <size, length> = wanted [n, 1]."""
    order = size.argsort(dim=1, descending=True, stable=True)
    weight, most = size.gather(1, order), room.gather(1, order)
    gained = (weight * most).nan_to_num_(0.0, posinf=inf).cumsum(1)
    before = torch.cat([torch.zeros_like(wanted), gained[:, :-1]], 1)
    length = torch.where(weight > 0, (wanted - before).clamp_min(0.0) / weight, 0.0).minimum(most)
    return torch.empty_like(length).scatter_(1, order, length)


def _level(size: Tensor, room: Tensor, wanted: Tensor, order: float) -> Tensor:
    """Lengths [n, D] in [0, room] of the least norm with <size, length> = wanted [n, 1]."""
    pace = size if order == 2 else (size > 0).to(size.dtype)
    rate, whole = size * pace, size * room
    level, most = torch.zeros_like(wanted), torch.finfo(wanted.dtype).max
    check = size.device.type == "cpu"
    for _ in range(size.shape[1] + 1 if check else ROUNDS):
        free = pace * level < room
        slope = torch.where(free, rate, 0.0).sum(1, keepdim=True)
        rest = wanted - torch.where(free, 0.0, whole).sum(1, keepdim=True)
        # the root for the coordinates that are free lies below the root sought
        higher = torch.where(slope > 0, rest / slope, level).maximum(level).clamp_max(most)
        if check and bool((higher == level).all()):
            break
        level = higher
    return (pace * level).minimum(room)


def largest_others(logits: Tensor, y: Tensor, classes: int | None) -> Tensor:
    """int64 [n, C]: the C classes other than y with the largest logits [n, K]; all for None."""
    others = logits.shape[1] - 1
    count = others if classes is None else min(classes, others)
    return logits.scatter(1, y[:, None], -inf).topk(count, 1).indices


def _gains(logits: Tensor, y: Tensor, rivals: Tensor) -> Tensor:
    """[n, C, K]: the directions in which a rival's logit gains on that of the label."""
    rival, own = (one_hot(index, logits.shape[1]) for index in (rivals, y[:, None]))
    return (rival - own).to(logits.dtype)
