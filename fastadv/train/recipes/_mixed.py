"""Labels that are probabilities [B, K]: which recipes take them, and how points are crafted."""

from torch import Tensor

from fastadv.errors import InputError
from fastadv.losses import Loss
from fastadv.train.recipes.base import innermost

# recipes of this package whose losses take probabilities
TAKES = ("Standard", "FGSMTraining", "PGDTraining", "FastTraining", "FreeTraining", "TRADES")


def check_mixed(recipe: object) -> None:
    """Raise InputError unless `recipe` is one of these, perhaps in another one, or the caller's own."""
    _check(recipe, "augment: expected one that leaves labels alone", "one that mixes them", "leave it out")


def check_soft(recipe: object) -> None:
    """Raise the same for a data set whose labels are probabilities."""
    likeliest = "give the likeliest classes, label.argmax()"
    _check(recipe, "train_set: expected classes as labels", "probabilities", likeliest)


def _check(recipe: object, expected: str, got: str, otherwise: str) -> None:
    recipe = innermost(recipe)
    kind = type(recipe)
    built_in = kind.__module__.startswith("fastadv.train.recipes.")
    if built_in and (kind.__name__ not in TAKES or getattr(recipe, "loss", "ce") != "ce"):
        raise InputError(
            f"{expected} for {recipe!r}, got {got}; take one of {', '.join(TAKES)} with the cross-entropy, "
            f"or {otherwise}"
        )


def of_mixed(loss: Loss, y: Tensor) -> tuple[Loss, Tensor]:
    """Return the cross-entropy of probabilities y [B, K] as a loss to ascend, and the likeliest labels [B].

    A function is left as it is, and sees those labels. InputError for another loss by name.
    """
    if not callable(loss) and loss != "ce":
        raise InputError(f"loss: expected 'ce' or a function for mixed labels, got {loss!r}")

    def mixed(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        return -(y.to(logits) * logits.log_softmax(1)).sum(1)

    return (loss if callable(loss) else mixed), y.argmax(1)
