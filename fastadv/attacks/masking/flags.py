"""What casts doubt on a robust accuracy: names, limits, words and advice; and what components cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastadv import outputs
from fastadv.attacks.core.result import ZERO_SHARE
from fastadv.attacks.masking import clamped_input
from fastadv.intervals import clopper_pearson


@dataclass(frozen=True)
class Sign:
    """What is seen where a value is above `limit`, and what to do then."""

    words: str
    advice: str
    limit: float = 0.0


# The order is by strength: signs that hide a gradient, then those that follow from it.
SIGNS = {
    "mixed_rows": Sign(
        "a row alone has other logits than in the batch",
        "give BatchNorm its statistics, or attack a module around it that passes each row alone",
    ),
    "bounded_outputs": Sign(outputs.WORDS, outputs.ADVICE),
    "incorrect_gradient": Sign(
        "gradients are masked: the model changes otherwise than its gradient says",
        "fa.attacks.masked_modules(model, x) names modules that hide theirs: give fa.models.bpda(model, {its "
        "name: 'identity'}); make a step of the model's own forward a module first; a pass that optimizes "
        "something needs an attack through its steps",
        0.01,
    ),
    "clamped_input": Sign(clamped_input.WORDS, clamped_input.ADVICE, clamped_input.LIMIT),
    "randomized": Sign(
        "two passes of the same samples differ, or their gradients do",
        'average gradients over passes (eot=20, or autoattack with version="rand"), and classify each sample '
        "several times (draws=20)",
    ),
    "zero_gradient": Sign(
        "the gradient is zero or not finite for some samples",
        "logits divided by a constant, another loss, or square, which needs no gradient",
        ZERO_SHARE,
    ),
    "unconstrained": Sign(
        "with no limit on the radius, the gradient leads some samples to no other class",
        "square, which needs no gradient",
        0.05,
    ),
    "square": Sign(
        "Square broke samples that gradient attacks did not",
        "a stronger gradient attack (more steps or restarts; of classes autoattack, loss='ce_sharp'); "
        "if Square still breaks more, the model masks its gradients",
        0.01,
    ),
}
FLAGS = {name: f"{sign.words}; {sign.advice}" for name, sign in SIGNS.items()}
SQUARE_FLAG = f"square: {FLAGS['square']}"


@dataclass(frozen=True)
class Cost:
    """What one component of AutoAttack did to so many `samples`, and at what cost in passes and `seconds`."""

    samples: int
    broken: int
    forwards: int
    backwards: int
    seconds: float


def blind(costs: Mapping[str, Cost]) -> set[str]:
    """Return the names of Square's runs that began after an attack by gradients, of components in order."""
    names = list(costs)
    first = next((place for place, cost in enumerate(costs.values()) if cost.backwards), len(names))
    return {name for name in names[first:] if name.split()[-1] == "square"}


def square_stands_out(broken: int, samples: int) -> bool:
    """Return whether Square alone broke more than chance of what attacks by gradients had left."""
    return at_least(broken, samples) > SIGNS["square"].limit


def at_least(count: int, of: int) -> float:
    """Return the lower end of the exact 95% interval of a share; 0 of none."""
    return float(clopper_pearson(count, of).low) if of else 0.0


def at_least_alone(one: int, other: int, of: int) -> float:
    """Return that of what one attack broke alone; 0 where chance explains it beating the other (McNemar)."""
    return at_least(one, of) if at_least(one, one + other) > 0.5 else 0.0
