"""Lengths, steps and schedules that attacks share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import check_number
from fastadv.attacks.core import Search
from fastadv.attacks.core.points import like as like
from fastadv.errors import InputError
from fastadv.ops._rows import NO_BOX
from fastadv.threat import Threat

# a finite stand-in for the diameter of a box without edges; its square is finite in float32
FAR = 1e15


def positive(name: str, value: float | None, default: float) -> float:
    """Return `value`, checked to be a finite number > 0, or the default for None."""
    if value is None:
        return default
    if not check_number(name, value, 0) > 0:
        raise InputError(f"{name}: expected a number > 0, got {value!r}")
    return float(value)


def width(threat: Threat) -> float:
    """Return the length of an edge of the box; 1 where it has none."""
    edge = threat.box[1] - threat.box[0] if isinstance(threat, Threat) else math.inf
    return edge if math.isfinite(edge) else 1.0


def as_floats(compare: Callable[..., Tensor], values: Tensor, others: Tensor | float) -> Tensor:
    """Return the answers of torch.ne or its kin as 1 and 0: a.lerp(b, told) is a fast torch.where."""
    answers: Tensor = compare(values, others, out=torch.empty_like(values))
    return answers


def where_rows(rows: Tensor, those: Tensor, others: Tensor) -> Tensor:
    """Return torch.where for rows bool [n, C] of finite tensors [n, C, ...], faster on a CPU (see `told`)."""
    return others.lerp(those, like(rows.to(others.dtype), others))


def norm(away: Tensor, order: float) -> Tensor:
    """Return [n], the norm of each row of away [n, ...]; torch's of order 1 and infinity are slow on CPUs."""
    rows = away.flatten(1)
    if order == 0:
        return (rows != 0).sum(1).to(away.dtype)
    if order == 1:
        return rows.abs().sum(1)
    if order == math.inf:
        return ops.largest(rows)
    length: Tensor = torch.linalg.vector_norm(rows, order, dim=1)
    return length


def shorten_(away: Tensor, by: Tensor) -> Tensor:
    """Shorten each row of away [n, ...] by a Euclidean length [n], in place; zero where it is no longer."""
    length = norm(away, 2).clamp_min(torch.finfo(away.dtype).tiny)
    return away.mul_(like((1 - by.flatten() / length).clamp_min(0.0), away))


def unit(vectors: Tensor) -> Tensor:
    """Return the vectors [n, ...], each over its Euclidean length; zero stays zero."""
    return unit_(vectors.clone())


def unit_(vectors: Tensor) -> Tensor:
    """Divide the vectors [n, ...] by their Euclidean lengths, in place; zero stays zero."""
    length = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return vectors.div_(like(length.clamp_min(torch.finfo(vectors.dtype).tiny), vectors))


def orthogonal_(vectors: Tensor, normal: Tensor) -> Tensor:
    """Take from vectors [n, C, ...] what lies along the unit vectors normal [n, ...], in place."""
    across = normal.unsqueeze(1)
    along = (vectors * across).flatten(2).sum(2)
    return vectors.addcmul_(like(along, vectors), across, value=-1)


def farthest(search: Search) -> Tensor:
    """Return [n], a finite distance beyond which no point of the box lies that the mask allows."""
    (low, high), mask = search.threat.box, search.problem.mask
    room = torch.maximum(search.x - low, high - search.x).clamp_max(FAR)
    room = room if mask is None else room.where(mask, 0.0)
    return norm(room, search.threat.order).clamp_max(FAR)


def cosine(step: int, steps: int, last: float) -> float:
    """Return the factor of step number `step`, which falls along half a cosine from 1 to `last`."""
    return last + (1 - last) * (1 + math.cos(math.pi * step / steps)) / 2


def advance(points: Tensor, gradient: Tensor, x: Tensor, step_size: float) -> Tensor:
    """Overwrite `points` with those `step_size` further along the gradient, in L2, wherever that leads."""
    further: Tensor = ops.l2_step_(points, gradient, x, math.inf, step_size, NO_BOX)
    return further
