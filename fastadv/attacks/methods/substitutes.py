"""Other models beside the one that is attacked: substitutes, and those with another backward."""

from collections.abc import Sequence

from torch import Tensor

from fastadv.engine import Prepared
from fastadv.errors import InputError


def check_sources(name: str, sources: Sequence[Prepared], x: Tensor, clean: Tensor) -> None:
    """Raise InputError where one has more or fewer classes than the model, whose logits at x are `clean`."""
    classes = clean.shape[1]
    for number, substitute in enumerate(sources):
        found = substitute.verdict(x[:1]).shape[1]
        if found != classes:
            which = "" if len(sources) == 1 else f" as number {number}"
            raise InputError(
                f"{name}: expected a net with the {classes} classes of the model, "
                f"got one with {found}{which}; a label must mean the same to both"
            )


def check_decisions(other: Prepared, x: Tensor, clean: Tensor) -> None:
    """Raise InputError unless a model decides at x as the one does whose logits there are `clean`."""
    finite = clean.isfinite().all(1)
    apart = int((other.verdict(x).argmax(1) != clean.argmax(1))[finite].sum())
    if apart:
        raise InputError(
            "bpda: expected the decisions of the model that is attacked, of which the backward alone is "
            f"replaced, got others on {apart} of {int(finite.sum())} samples; give another net as source"
        )
