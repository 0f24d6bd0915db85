"""A warning where a model seems to train on what attacks return."""

from contextvars import ContextVar
from math import inf
from weakref import WeakKeyDictionary

from torch import nn

from fastadv._checks import warn
from fastadv._torch import version
from fastadv.engine import Frozen, Prepared

# writes into a weight by one step of an optimizer, at most; and calls that came a step apart, which tell
WRITES, STEPS = 8, 3
# the part with a model's last weight: that weight's version, and how many calls in a row came a step apart
_seen: "WeakKeyDictionary[nn.Module, tuple[float, float]]" = WeakKeyDictionary()
# the caller moves every image, also those that an attack leaves alone
moves_all: ContextVar[bool] = ContextVar("moves_all", default=False)


def warn_of_training(attack: str, model: object, classifier: Prepared, numbered: bool) -> None:
    """Warn once for a model in training mode with gradients, or with a step between each of four calls.

    The `classifier` is what answers for the model; this library freezes a model itself
    where samples are `numbered`.
    """
    if moves_all.get() or (isinstance(model, Prepared) and (numbered or not isinstance(model, Frozen))):
        return
    # the last part with weights has the mode of the model, which wrappers around it need not have
    parts = reversed(classifier.parts)
    part = next((part for part in parts if next(part.parameters(False), None) is not None), None)
    if part is None or nn.parameter.is_lazy(weight := next(part.parameters(False))) or weight.is_inference():
        return
    before, steps = _seen.get(part, (inf, 0.0))
    steps = steps + 1 if 0 < version(weight) - before <= WRITES else min(steps, 0.0)
    learns = part.training and weight.grad is not None
    warned = learns or steps == STEPS
    _seen[part] = version(weight), -inf if warned else steps  # -inf stays
    if not warned or steps == -inf:
        return
    sign = "is in training mode and has gradients" if learns else "takes a step of training between calls"
    warn(
        f"{attack}: expected a model to evaluate, got one that {sign}; an attack leaves misclassified images "
        "clean. To train, use fa.train.craft(recipe, model, x, y), or the recipe itself as the loss; to "
        f"evaluate, {'call model.eval() first' if learns else 'fa.evaluate does not warn'}"
    )
