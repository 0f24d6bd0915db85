"""The answers of a model, by which a run knows it again where neither weights nor code tell another."""

from typing import Any

from torch import Tensor

from fastadv import rng
from fastadv.engine import Plain, Prepared
from fastadv.runs.identity import probe

FIRST_SAMPLES = 16  # whose logits tell a model from another


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
