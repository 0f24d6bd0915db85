"""Throughput of the ops: against the eager code a user would write, that code compiled, and the reference."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import fastadv.ops as ops
from bench.timing import quantiles, ratio, times
from fastadv.ops.registration.library import CARDS

Row = dict[str, Any]
RADIUS, STEP = 0.03, 0.01
# an L1 ball of the same radius would move a single coordinate
L1_RADIUS, L1_STEP, L1_QUANTILE = 12.0, 1.0, 0.99
SHAPES = ((1000, 3, 32, 32), (4000, 3, 32, 32), (64, 3, 224, 224), (1, 8))


def linf_eager(x_adv: Tensor, grad: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """sign, multiply, add, maximum, minimum, clamp; the ball's edges are given."""
    return torch.minimum(torch.maximum(x_adv + STEP * grad.sign(), lower), upper).clamp(0, 1)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(1e-12).reshape(-1, *[1] * (x.dim() - 1))


def l2_eager(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """The usual step: normalize, move, rescale into the ball, clamp into the box.

    It is no exact projection.
    """
    shift = x_adv + STEP * grad / _norm(grad) - x
    return (x + shift * (RADIUS / _norm(shift)).clamp_max(1.0)).clamp(0, 1)


def l1_eager(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """The step of SLIDE (Tramer & Boneh 2019), the projection by sorting (Duchi et al. 2008) and a clamp.

    The coordinates in the top percent of |grad| that the box lets move share the step equally. The projection
    is the exact one on the ball, but not on the ball inside the box.
    """
    rows = grad.flatten(1)
    at = x_adv.flatten(1)
    stuck = ((at >= 1) & (rows > 0)) | ((at <= 0) & (rows < 0))
    size = rows.abs().masked_fill(stuck, 0.0)
    chosen = size >= size.quantile(L1_QUANTILE, dim=1, keepdim=True)
    move = rows.sign() * (chosen & (size > 0))
    shift = at + L1_STEP * move / move.abs().sum(1, keepdim=True).clamp_min(1.0) - x.flatten(1)
    length = shift.abs()
    ordered = length.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - L1_RADIUS) / torch.arange(1, ordered.shape[1] + 1, device=x.device)
    count = (ordered > excess).sum(1, keepdim=True).clamp_min(1)
    threshold = excess.gather(1, count - 1).clamp_min(0.0)
    kept = shift.sign() * (length - threshold).clamp_min(0.0)
    return (x + kept.reshape(x.shape)).clamp(0, 1)


Step = Callable[..., Tensor]
# the eager step, the fused one, and their radius and step size
STEPS: dict[str, tuple[Step, Step, float, float]] = {
    "linf_step": (linf_eager, ops.linf_step_, RADIUS, STEP),
    "l2_step": (l2_eager, ops.l2_step_, RADIUS, STEP),
    "l1_step": (l1_eager, ops.l1_step_, L1_RADIUS, L1_STEP),
}


def ways(name: str, x_adv: Tensor, grad: Tensor, x: Tensor) -> dict[str, Callable[[], object]]:
    eager, fused, radius, step_size = STEPS[name]
    given = (x - radius, x + radius) if name == "linf_step" else (x,)
    compiled = torch.compile(eager)
    return {
        "eager": lambda: eager(x_adv, grad, *given),
        "torch.compile": lambda: compiled(x_adv, grad, *given),
        "fastadv": lambda: fused(x_adv, grad, x, radius, step_size),
    }


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of a plain copy beyond the cache, one read and one write counted."""
    source = torch.rand(64 * 1024 * 1024, device=device)
    target = torch.empty_like(source)
    taken = times({"copy": lambda: target.copy_(source)}, seconds=1.0)["copy"]
    return 2 * source.numel() * 4 / sorted(taken)[len(taken) // 2] / 1e6


def rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """One row for each op, shape and provider."""
    peak = copy_bandwidth(device)
    yield {"what": "copy", "provider": "torch", "shape": [64 * 1024 * 1024], "gb_per_s": round(peak, 1)}
    for name in STEPS:
        for shape in SHAPES:
            draw = torch.Generator().manual_seed(0)
            x, grad = (
                torch.rand(shape, generator=draw).to(device),
                torch.randn(shape, generator=draw).to(device),
            )
            x_adv = x.clone()
            taken = times(ways(name, x_adv, grad, x), seconds)
            for provider, values in taken.items():
                row = {"what": f"{name}_", "provider": provider, "shape": list(shape), **quantiles(values)}
                if provider == "fastadv":
                    rate = CARDS[name].bytes_moved(x_adv) / row["p50_ms"] / 1e6
                    row |= {"gb_per_s": round(rate, 1), "share_of_copy": round(rate / peak, 2)}
                yield row | {"times_eager": round(ratio(taken["eager"], values), 2)}
    yield from reference_rows(device, seconds)


def reference_rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """Every other op on its largest sample, against its own reference."""
    for name, card in CARDS.items():
        if name in STEPS:
            continue
        args = max(
            card.samples(device, torch.float32 if torch.float32 in card.dtypes else card.dtypes[0]),
            key=lambda a: a[0].numel(),
        )
        op = getattr(torch.ops.fastadv, name)
        taken = times(
            {"reference": lambda a=args, c=card: c.reference(*a), "fastadv": lambda a=args, o=op: o(*a)},
            seconds / 4,
        )
        for provider, values in taken.items():
            shape = list(args[0].shape)
            yield {
                "what": name,
                "provider": provider,
                "shape": shape,
                **quantiles(values),
                "times_reference": round(ratio(taken["reference"], values), 2),
            }
