"""Throughput of the ops: against the eager code a user would write, that code compiled, and the reference."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import fastadv.ops as ops
from bench.timing import quantiles, ratio, times
from fastadv._library import CARDS

Row = dict[str, Any]
RADIUS, STEP = 0.03, 0.01
SHAPES = ((1000, 3, 32, 32), (4000, 3, 32, 32), (64, 3, 224, 224), (1, 8))


def linf_eager(x_adv: Tensor, grad: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """sign, multiply, add, maximum, minimum, clamp; the ball's edges are given."""
    return torch.minimum(torch.maximum(x_adv + STEP * grad.sign(), lower), upper).clamp(0, 1)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(1e-12).reshape(-1, *[1] * (x.dim() - 1))


def l2_eager(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """The usual step: normalise, move, rescale into the ball, clamp into the box (which is no exact
    projection).
    """
    shift = x_adv + STEP * grad / _norm(grad) - x
    return (x + shift * (RADIUS / _norm(shift)).clamp_max(1.0)).clamp(0, 1)


def ways(name: str, x_adv: Tensor, grad: Tensor, x: Tensor) -> dict[str, Callable[[], object]]:
    if name == "linf_step":
        lower, upper = x - RADIUS, x + RADIUS
        compiled = torch.compile(linf_eager)
        return {
            "eager": lambda: linf_eager(x_adv, grad, lower, upper),
            "torch.compile": lambda: compiled(x_adv, grad, lower, upper),
            "fastadv": lambda: ops.linf_step_(x_adv, grad, x, RADIUS, STEP),
        }
    compiled = torch.compile(l2_eager)
    return {
        "eager": lambda: l2_eager(x_adv, grad, x),
        "torch.compile": lambda: compiled(x_adv, grad, x),
        "fastadv": lambda: ops.l2_step_(x_adv, grad, x, RADIUS, STEP),
    }


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of a plain copy beyond the cache, one read and one write counted."""
    source = torch.rand(64 * 1024 * 1024, device=device)
    target = torch.empty_like(source)
    taken = times({"copy": lambda: target.copy_(source)}, seconds=1.0)["copy"]
    return 2 * source.numel() * 4 / sorted(taken)[len(taken) // 2] / 1e6


def rows(device: torch.device, seconds: float) -> Iterator[Row]:
    """One row a (op, shape, provider)."""
    peak = copy_bandwidth(device)
    yield {"what": "copy", "provider": "torch", "shape": [64 * 1024 * 1024], "gb_per_s": round(peak, 1)}
    for name in ("linf_step", "l2_step"):
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
        if name in ("linf_step", "l2_step"):
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
