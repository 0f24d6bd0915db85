"""Labels of mixed images, which are probabilities [B, K]: who takes them, and how points are crafted."""

from torch import Tensor

from fastadv.errors import InputError
from fastadv.losses import Loss
from fastadv.train.recipes.base import innermost

# recipes of this package whose losses take probabilities
TAKES = ("Standard", "FGSMTraining", "PGDTraining", "FastTraining", "FreeTraining", "TRADES")


def check_mixed(recipe: object) -> None:
    """Raise InputError unless `recipe` is one of these, perhaps in another one, or the caller's own."""
    recipe = innermost(recipe)
    kind = type(recipe)
    built_in = kind.__module__.startswith("fastadv.train.recipes.")
    if built_in and (kind.__name__ not in TAKES or getattr(recipe, "loss", "ce") != "ce"):
        raise InputError(
            f"augment: expected one that leaves labels alone for {recipe!r}, got one that mixes them; take "
            f"one of {', '.join(TAKES)} with the cross-entropy, or leave out cutmix and mixup"
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
