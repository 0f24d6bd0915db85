"""Class boundaries taken for hyperplanes, and which is the nearest."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from fastadv.attacks.core import WRONG, Look, Search
from fastadv.attacks.methods.geometry import like, norm, width
from fastadv.threat import Threat

# the share of the box's width by which each step is longer than the way to the boundary: it keeps the steps
# from ending just short of the boundary, which clipping to the box would let them do
LEAST_STEP = 1e-4
# (logits [n, K]) -> int64 [n, C], the classes to which boundaries are looked at
Rivals = Callable[[Tensor], Tensor]
# the order of the dual norm
DUAL = {inf: 1.0, 2.0: 2.0, 1.0: inf}


@dataclass(frozen=True, eq=False)
class Boundary:
    """To first order, the boundary of a success nearest to points: {z: <normal, z - point> = lack}."""

    look: Look  # the model's answer at the points
    lack: Tensor  # [n], negative beyond the boundary
    normal: Tensor  # [n, ...]
    size: Tensor  # [n], the dual norm of the normal
    distance: Tensor  # [n], |lack| / size; 0 where that is not defined


def nearest_boundary(search: Search, points: Tensor, rivals: Rivals, crossed: bool = False) -> Boundary:
    """Return the nearest boundary of label and rivals; of successes, the first rival's if `crossed`."""
    if search.targets is not None or search.problem.criterion is not WRONG:
        one = search.gradient(points, search.problem.margin)
        look: Look = one
        lacks, normals = -one.loss[:, None], one.gradient.unsqueeze(1)
    else:
        look = answer = search.jacobian(points, lambda logits: gains(logits, search.y, rivals(logits)))
        lacks = look.logits.gather(1, search.y[:, None]) - look.logits.gather(1, rivals(look.logits))
        normals = answer.gradients
    flat, order = normals.flatten(0, 1), DUAL[search.threat.order]
    # float64, in which the squares of huge and tiny gradients have room
    sizes = norm(flat.double() if order == 2 else flat, order).view(normals.shape[:2])
    distances = torch.where(sizes > 0, lacks.abs().to(sizes.dtype) / sizes, inf).nan_to_num_(inf, inf)
    distance, place = distances.to(normals.dtype).min(1)
    row = torch.arange(len(lacks), device=lacks.device)
    if crossed:
        place = torch.where(look.adversarial, 0, place)
        distance = distances[row, place].to(normals.dtype)
    distance = torch.where(distance.isfinite(), distance, 0.0)
    return Boundary(look, lacks[row, place], normals[row, place], sizes[row, place], distance)


def steepest(normal: Tensor, size: Tensor, order: float) -> Tensor:
    """Return the direction of unit norm (order 2 or inf) along normal [n, ...], of dual norm size [n]."""
    if order == inf:
        return normal.sign()
    return normal * like(torch.where(size > 0, 1 / size, 0.0).to(normal.dtype), normal)


def beyond(near: Boundary, threat: Threat, overshoot: float) -> Tensor:
    """Return the points [n, ...] beyond the boundary, perhaps outside the box, by DeepFool's step."""
    way = steepest(near.normal, near.size, threat.order)
    length = (1 + overshoot) * (near.distance + LEAST_STEP * width(threat))
    return near.look.x_adv + way * like(length, way)


def largest_others(logits: Tensor, y: Tensor, classes: int | None) -> Tensor:
    """Return int64 [n, C]: the C classes other than y with the largest logits [n, K]; all for None."""
    others = logits.shape[1] - 1
    count = others if classes is None else min(classes, others)
    return logits.scatter(1, y[:, None], -inf).topk(count, 1).indices


def gains(logits: Tensor, y: Tensor, rivals: Tensor) -> Tensor:
    """Return [n, C, K]: the directions in which a rival's logit gains on that of the label."""
    zeros = logits.new_zeros(*rivals.shape, logits.shape[1])  # torch's one_hot reads values
    labels = y[:, None, None].expand(*rivals.shape, 1)
    return zeros.scatter(2, rivals[:, :, None], 1.0).scatter_add(2, labels, -torch.ones_like(zeros[..., :1]))
