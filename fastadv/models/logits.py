"""The logits behind a head that squashes them: a softmax, sigmoid, tanh or softsign at the end of a model."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastadv._checks import check_choice
from fastadv.engine import Frozen
from fastadv.errors import InputError

torch.fx.wrap("before")

# of each head the ends of its outputs, and its inverse
LINKS: dict[str, tuple[float, float, Callable[[Tensor], Tensor]]] = {
    "softmax": (0.0, 1.0, torch.log),
    "sigmoid": (0.0, 1.0, torch.logit),
    "tanh": (-1.0, 1.0, torch.atanh),
    "softsign": (-1.0, 1.0, lambda outputs: outputs / (1 - outputs.abs())),
}
ROUNDING = 1e-5  # beyond an end, as of a mean of probabilities


def logits(model: nn.Module | Callable[[Tensor], Tensor], link: str = "softmax") -> nn.Module:
    """Return a model that ends in a head which squashes its logits as one that returns the logits.

    Attacks need logits: at the ends of a softmax or sigmoid float32 tells no difference, and a loss follows
    what is left in the middle. The inverse of the head gives margins and gradients back wherever an output
    differs from its end: behind a softmax until a class is 87 below the largest, behind a sigmoid of up to
    16, a tanh of up to 8, a softsign of up to ten million. Beyond, the gradient is 0: return the logits
    themselves. The classes stay as they are; of a single probability, one half becomes 0.

    Args:
        model: classifier [B, ...] to what a head makes of logits. It is held, not copied.
        link: the head: "softmax" (probabilities [B, K]; logits but for one number a row), "sigmoid" (of
            each class, or of one logit), "tanh" or "softsign".

    Returns:
        A module, to attack, freeze, evaluate or train. Outputs that no such head returns become NaN.

    Raises:
        InputError: the link is unknown, or the model is none, or frozen: freeze what this returns.

    Example:
        >>> import torch, fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=64)
        >>> net = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> squashed = torch.nn.Sequential(net, torch.nn.Softmax(1))
        >>> model = fa.models.logits(squashed, "softmax")
        >>> bool((model(digits.x) - net(digits.x).log_softmax(1)).abs().max() < 1e-5)
        True
    """
    check_choice("link", link, tuple(LINKS))
    if isinstance(model, Frozen) or not callable(model):
        raise InputError(
            f"model: expected a module or function that is not frozen, got {type(model).__name__}; freeze "
            "what fa.models.logits returns"
        )
    return _Logits(model, link)


class _Logits(nn.Module):
    """What a model returns before its head."""

    def __init__(self, model: nn.Module | Callable[[Tensor], Tensor], link: str) -> None:
        super().__init__()
        self.model, self.link = model, link

    def forward(self, x: Tensor) -> Tensor:
        return before(self.model(x), self.link)

    def extra_repr(self) -> str:
        return f"link={self.link!r}"


def before(outputs: Tensor, link: str) -> Tensor:
    """Return the logits of outputs, of those at an end that of the last number before it; NaN beyond."""
    low, high, inverse = LINKS[link]
    known, info = (outputs >= low - ROUNDING) & (outputs <= high + ROUNDING), torch.finfo(outputs.dtype)
    least = info.tiny if low == 0 else low + info.eps / 2
    return inverse(torch.where(known, outputs.clamp(least, high - info.eps / 2), torch.nan))
