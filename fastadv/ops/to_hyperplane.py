"""to_hyperplane: argmin ||d|| over {d : <normal, d> = lack, lo <= points + d <= hi}.

With up = sign(lack) normal, d = sign(up) length, where 0 <= length <= room before the edge of the box and
sum |up| length = |lack|. In L2 and Linf length = min(t pace, room) with one t a row, pace = |up| or 1, found
by Newton's steps from 0, which rise to it. In L1 the coordinates of the largest |up| are used up first.
"""

from collections.abc import Iterator
from math import inf

import torch
from torch import Tensor

from fastadv._checks import check_choice
from fastadv.ops._rows import Box, check_like, check_tensor, limits
from fastadv.ops._samples import SHAPES, batch, layouts, within
from fastadv.ops.registration.library import Sample, op, register

NORMS = ("linf", "l2", "l1")
# Newton steps on a GPU, where asking whether they have converged would wait for the device
ROUNDS = 32


def reference(points: Tensor, normal: Tensor, lack: Tensor, norm: str, lo: float, hi: float) -> Tensor:
    flat, weight = points.flatten(1).double(), normal.flatten(1).double()
    # divided by the largest weight, so that the squares of tiny and huge weights neither vanish nor overflow
    largest = weight.abs().amax(1, keepdim=True) if weight.shape[1] else weight.new_zeros(len(weight), 1)
    usable = (largest > 0) & (largest < inf) & lack[:, None].isfinite()
    weight, lack = (torch.where(usable, value / largest, 0.0) for value in (weight, lack.double()[:, None]))
    up, wanted = weight * lack.sign(), lack.abs()
    room = torch.where(up > 0, hi - flat, torch.where(up < 0, flat - lo, 0.0)).clamp_min_(0.0)
    length = (_greedy if norm == "l1" else _level)(up.abs(), room, wanted, norm)
    return length.copysign_(up).reshape(points.shape).to(points.dtype)


def _greedy(size: Tensor, room: Tensor, wanted: Tensor, norm: str) -> Tensor:
    """Find lengths [n, D] in [0, room] of the least sum with <size, length> = wanted [n, 1]."""
    order = size.argsort(dim=1, descending=True, stable=True)
    weight, most = size.gather(1, order), room.gather(1, order)
    gained = (weight * most).nan_to_num_(0.0, posinf=inf).cumsum(1)
    before = torch.cat([torch.zeros_like(wanted), gained[:, :-1]], 1)
    length = torch.where(weight > 0, (wanted - before).clamp_min(0.0) / weight, 0.0).minimum(most)
    return torch.empty_like(length).scatter_(1, order, length)


def _level(size: Tensor, room: Tensor, wanted: Tensor, norm: str) -> Tensor:
    """Find lengths [n, D] in [0, room] of the least norm with <size, length> = wanted [n, 1]."""
    pace = size if norm == "l2" else (size > 0).to(size.dtype)
    rate, whole = size * pace, size * room
    level, most = torch.zeros_like(wanted), torch.finfo(wanted.dtype).max
    check = size.device.type == "cpu"
    for _ in range(size.shape[1] + 1 if check else ROUNDS):
        free = pace * level < room
        rates = torch.where(free, rate, 0.0).sum(1, keepdim=True)
        rest = wanted - torch.where(free, 0.0, whole).sum(1, keepdim=True)
        # the root over the free coordinates alone lies below the true one
        higher = torch.where(rates > 0, rest / rates, level).maximum(level).clamp_max(most)
        if check and bool((higher == level).all()):
            break
        level = higher
    return (pace * level).minimum(room)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for seed, shape in enumerate(SHAPES):
        draw = torch.Generator().manual_seed(seed)
        x_adv, grad, _ = batch(shape, device, dtype, seed)
        lack = torch.randn(shape[0], generator=draw, dtype=torch.float64).to(device)
        size = grad.nan_to_num(0.0, 0.0, 0.0).double().abs().flatten(1).sum(1)
        for norm in NORMS:
            for points, normal, _ in layouts(x_adv, grad, x_adv):
                yield points, normal, lack * size * 0.3, norm, 0.0, 1.0
            for share in (0.0, 1e-4, 10.0, inf):
                yield x_adv, grad, lack * size * share, norm, -0.5, 1.5
            yield x_adv, grad.sign(), lack * size, norm, 0.0, 1.0  # ties
            yield x_adv, grad, lack, norm, -inf, inf


register(
    name="to_hyperplane",
    schema="(Tensor points, Tensor normal, Tensor lack, str norm, float lo, float hi) -> Tensor",
    summary="argmin ‖d‖ over {⟨normal, d⟩ = lack, points + d in the box}",
    reference=reference,
    samples=samples,
    compare=within(4, 3e-7),
    no_gradient="attacks project points, not graphs",
    ordered=True,
    bytes_moved=lambda points, *rest: 3 * points.nbytes,
    flops=lambda points, *rest: 40 * points.numel(),
)


def to_hyperplane(points: Tensor, normal: Tensor, lack: Tensor, norm: str, box: Box = (0.0, 1.0)) -> Tensor:
    """Return the least d, like points [B, ...], with <normal, d> = lack [B] and points + d in the box.

    Where the hyperplane does not meet the box, points + d is the point of the box nearest to it; where the
    lack or a weight of the normal is not finite, or the normal is zero, d is zero.
    """
    check_like(points, normal=normal)
    check_choice("norm", norm, NORMS)
    check_tensor("lack", lack, points.shape[:1], None)
    return op("to_hyperplane")(points, normal, lack.double(), norm, *limits(box))
