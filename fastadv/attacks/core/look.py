"""What the model says of points."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(eq=False)
class Look:
    """What the model says of points: x_adv [n, ...] or, with C candidates a sample, [n, C, ...].

    Rows are those of the samples still in the search.

    seen: what passed the model: x_adv, or what it is in the caller's half precision, in the dtype of x_adv.
    logits: [n, K] or [n, C, K].
    adversarial: bool [n] or [n, C]; the logits are finite and meet the criterion.
    loss: [n] or [n, C], where one was asked for.
    gradient: like x_adv, with zeros for elements that are not finite; [n, C, ...] of C directions.
    distance: [n] or [n, C] of x_adv from x, in an attack for the minimum.
    """

    x_adv: Tensor
    seen: Tensor
    logits: Tensor
    adversarial: Tensor
    loss: Tensor | None = None
    gradient: Tensor | None = None
    distance: Tensor | None = None

    def take(self, kept: Tensor) -> "Look":
        """The rows `kept` alone."""
        return Look(*(None if value is None else value[kept] for value in vars(self).values()))  # type: ignore[arg-type]
