"""How likely a model calls each class."""

from typing import Any

from torch import Tensor


def log_confidence(model: Any, logits: Tensor) -> Tensor:
    """Return the log probability of each class that a model means by its logits; differentiable.

    This is the log softmax, unless the model has a method `log_confidence(logits)` of its own, as those have
    whose probabilities need not sum to 1 (an RBF network), or are calibrated (`ABS`).

    Args:
        model: the classifier.
        logits: [B, K].

    Returns:
        [B, K].
    """
    own = getattr(model, "log_confidence", None)
    found: Tensor = own(logits) if callable(own) else logits.log_softmax(1)
    return found
