"""The answers of a model, by which a run knows it again where neither weights nor code tell another."""

from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv.engine import Plain, Prepared

FIRST_SAMPLES = 16  # whose logits tell a model from another
# the largest difference of a probe's values that another machine's rounding may cause, as a share of their
# spread
_ROUNDING = 1e-3
_HALF_ROUNDING = 5e-2


def answers(prepared: Prepared, x: Tensor) -> dict[str, Any]:
    """Return what tells a model from others: numbers of its logits of the first rows of x [B, ...].

    The model as given passes x twice, under a fixed seed; `prepared` counts nothing.
    """
    plain = Plain(prepared, outputs=prepared.outputs)
    x = x.to(device=plain.device)

    def logits() -> Tensor:
        with rng.generators_kept(x.device, seed=0):
            return plain.verdict(x)[:FIRST_SAMPLES]

    return probe(logits(), logits(), plain.dtype)


def probe(outputs: Tensor, again: Tensor, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return a number for each row of outputs [B, ...], to tell functions apart; a random one has none."""
    flat, twice = (
        values.detach().double().cpu().flatten(1).nan_to_num(0, 0, 0) for values in (outputs, again)
    )
    within = float(flat.square().mean().sqrt())
    within *= _HALF_ROUNDING if dtype in (torch.float16, torch.bfloat16) else _ROUNDING
    if not torch.allclose(flat, twice, rtol=0, atol=within):
        return {"values": "random", "within": 0.0}
    # directions fixed by a formula, so that no generator is involved
    direction = torch.cos(torch.arange(1.0, 1.0 + flat.shape[1], dtype=torch.float64, device="cpu").square())
    values = flat @ direction / direction.norm()
    return {"values": [float(f"{value:.6g}") for value in values], "within": float(f"{within:.3g}")}
