"""Search copies tried: whether one answers as the model, by 16 of the caller's rows."""

import torch
from torch import Tensor

from fastadv import rng
from fastadv.engine import guard
from fastadv.engine.bound import Gradient
from fastadv.engine.plain import Plain
from fastadv.engine.precision import rounds_as
from fastadv.engine.room import GRADIENT, LOGITS
from fastadv.engine.search_copy import ROWS, SearchCopy, kind_of_pass

WRONG = "of the search copy differed from the model's by more than rounding"


class Apart(Exception):
    """A search copy does not answer as the model does."""


def compare(search: SearchCopy, plain: Plain, kind: str, x: Tensor) -> None:
    """Raise Apart where passes of rows like x are not those of the model, by the first of them."""
    few = x[:ROWS].detach()
    seen = few.to(plain.sees(x.dtype)).contiguous()
    if kind == LOGITS:
        same = _same_logits(search, search(few), plain.verdict(seen))
    else:
        _, expected, gradient = _gradient(plain, seen)
        _, logits, pulled = _gradient(search, few)
        same = _same_logits(search, logits, expected) and _same_gradient(search, pulled, gradient)
    search.measure(x)
    if same:  # or else there was nothing to compare, and the next pass of this kind may have something
        search.compared.add(kind_of_pass(kind, x))


def _same_logits(search: SearchCopy, logits: Tensor, expected: Tensor) -> bool | None:
    """Return whether there was anything to compare; raise Apart where it differs."""
    formats = [rounds_as(dtype, logits.device) for dtype in (search.dtype, search.search_dtype)]
    return _checked(guard.same_logits(logits, expected, formats), "logits")


def _same_gradient(search: SearchCopy, gradient: Tensor, expected: Tensor) -> bool | None:
    if not search.half:
        format = rounds_as(search.search_dtype, expected.device)
        return _checked(guard.same_gradient(gradient, expected, format), "gradient")
    same, cosine = guard.same_direction(gradient, expected)
    name = str(search.search_dtype).removeprefix("torch.")
    search.notes[f"{name} gradients: mean cosine with the model's {cosine:.2f}"] = None
    return _checked(same, "gradient")


def _checked(same: bool | None, what: str) -> bool | None:
    if same is False:
        raise Apart(f"the {what} {WRONG}")
    return same


def _gradient(one: Plain | SearchCopy, x: Tensor) -> Gradient:
    """Return values, logits, and the gradient of sums in which all logits take part, always the same."""

    def sums(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        draws = rng.uniform(logits.shape[1], 0, torch.zeros(1, dtype=torch.int64, device=logits.device))
        return ((draws - 0.5).to(logits) * logits).sum(1)

    return one.room.passes(
        GRADIENT, lambda rows: one.input_gradient(rows, None, sums), x, apart=one.rows_apart
    )
