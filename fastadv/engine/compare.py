"""Search copies tried: whether one answers as the model, by 16 of the caller's rows."""

from functools import partial

import torch
from torch import Tensor

from fastadv import rng
from fastadv.engine import guard
from fastadv.engine.plain import Plain
from fastadv.engine.precision import rounds_as
from fastadv.engine.search_copy import LOGITS, ROWS, SearchCopy, kind_of_pass
from fastadv.rng import generators_kept

WRONG = "of the search copy differed from the model's by more than rounding"


class Apart(Exception):
    """A search copy does not answer as the model does."""


def compare(search: SearchCopy, plain: Plain, x: Tensor, kind: str) -> None:
    """Raise Apart where passes of rows like x are not those of the model; `plain` counts them."""

    def probe(rows: Tensor) -> Tensor:
        plain.forwards += len(rows)
        return search.logits(rows)

    # A randomized model's next draws do not depend on what was compared
    with search.lock, generators_kept(x.device):
        same, what = _same(search, plain, x[:ROWS].detach(), kind)
        if same is False:
            raise Apart(f"the {what} {WRONG}")
        search.parts.measure(probe, x)
    if same:  # or else there was nothing to compare, and the next pass of this kind may have something
        search.compared.add(kind_of_pass(x, kind))


def _same(search: SearchCopy, plain: Plain, x: Tensor, kind: str) -> tuple[bool | None, str]:
    """Return whether answers at x differ by rounding alone, None where there are none; and which do."""
    both = partial(_both, search, plain, kind)
    expected, gradient, logits, pulled = search.in_parts("compared", both, x)
    same = guard.same_logits(logits, expected, search.formats(x.device))
    if not same or kind == LOGITS:
        return same, "logits"
    if not search.half:
        return guard.same_gradient(pulled, gradient, rounds_as(search.weights, x.device)), "gradient"
    same, cosine = guard.same_direction(pulled, gradient)
    name = str(search.weights).removeprefix("torch.")
    search.notes[f"{name} gradients: mean cosine with the model's {cosine:.2f}"] = None
    return same, "gradient"


def _both(search: SearchCopy, plain: Plain, kind: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits and gradients at x of the model as seen and of the copy; x for one not asked for."""
    seen = x.to(plain.sees(x.dtype)).contiguous()
    plain.forwards += len(x)
    if kind == LOGITS:
        return plain.verdict(seen), x, search.logits(x), x
    expected, gradients = plain.jacobian(seen, lambda logits: _direction(logits)[:, None])
    with torch.enable_grad():
        leaf, attached = search.attached(x, search.checked)
    logits = attached.detach().clone()
    plain.backwards += len(x)
    return expected, gradients[:, 0], logits, search.pull(leaf, attached, _direction(logits))


def _direction(logits: Tensor) -> Tensor:
    """Return a gradient at logits [B, K] in which all take part, always the same."""
    draws = rng.uniform(logits.shape[1], 0, torch.arange(len(logits), device=logits.device))
    return (draws - 0.5).to(logits)
