"""A warning where a model seems to train on what attacks return."""

from contextvars import ContextVar
from weakref import WeakSet

from torch import nn

from fastadv._checks import warn
from fastadv.engine import Prepared

_warned: "WeakSet[nn.Module]" = WeakSet()
# the caller moves every image, also those that an attack leaves alone
moves_all: ContextVar[bool] = ContextVar("moves_all", default=False)


def warn_of_training(attack: str, classifier: Prepared) -> None:
    """Warn once of a model in training mode whose weights have gradients."""
    # wrappers without weights of their own need not have its mode
    parts = [part for part in classifier.parts if getattr(part, "training", False)]
    learning = [part for part in parts if any(one.grad is not None for one in part.parameters(False))]
    if not learning or learning[0] in _warned or moves_all.get():
        return
    _warned.add(learning[0])
    warn(
        f"{attack}: expected a model to evaluate, got one that is in training mode and has gradients; an "
        "attack leaves misclassified images clean. To train, use fa.train.craft(recipe, model, x, y), or the "
        "recipe itself as the loss; to evaluate, call model.eval() first"
    )
