"""What casts doubt on a robust accuracy: names, limits, words and advice; and what components cost."""

from collections.abc import Mapping
from dataclasses import dataclass

SQUARE_SHARE = 0.002  # of the samples, by which Square may lower the robust accuracy without a flag


@dataclass(frozen=True)
class Sign:
    """What is seen where a value is above `limit`, what to do then, and what the value is a share of."""

    words: str
    advice: str
    limit: float = 0.0


SIGNS = {
    "randomized": Sign("passes on the same samples differ", 'use version="rand"'),
    "probabilities": Sign("the output looks like probabilities", "give the logits to the attack"),
    "optimizes": Sign("a forward pass optimizes something", "an adaptive attack may find more", 0.05),
    "zero_gradient": Sign(
        "the gradient is zero or not finite for some samples",
        "another loss, bpda for the modules that masked_modules names, or attacks without gradients",
        0.05,
    ),
    "incorrect_gradient": Sign(
        "a part of the gradient is missing, or a module hides its own",
        "make the step that cuts the gradient a module, and replace its gradient by bpda",
        0.01,
    ),
    "unstable": Sign(
        "noise too small to see changes the margin",
        "a smoother gradient: bpda, or eot where passes differ",
        0.1,
    ),
    "silent_success": Sign("a success on the way was lost", "report it: the proof of each result forbids it"),
    "incomplete": Sign("the loss still rises at the end", "more steps", 0.05),
    "transfer": Sign(
        "the search breaks samples that the judged model keeps",
        "attack the judged model itself, in its own precision",
        0.1,
    ),
    "unconstrained": Sign(
        "an attack without a radius leaves samples", "replace the gradient that is masked, or do without it"
    ),
    "budget": Sign("samples broken at the radius hold at twice the radius", "random starts, another loss"),
    "noise": Sign("noise in the ball breaks what attacks left", "attacks without gradients, restarts"),
    "square": Sign(
        "Square broke samples that attacks by gradients left", "the model may mask its gradients", 0.01
    ),
}
FLAGS = {name: f"{sign.words}; {sign.advice}" for name, sign in SIGNS.items()}
SQUARE_FLAG = f"square: {FLAGS['square']}"


@dataclass(frozen=True)
class Cost:
    """What one component of AutoAttack did, and at what cost.

    Attributes:
        samples: how many it attacked.
        broken: how many of these it broke.
        forwards: samples passed forward.
        backwards: samples for which an input gradient was computed.
        seconds: elapsed time.
    """

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
    """Return whether Square alone broke so many, which attacks by gradients had left, that it is a flag."""
    return broken > SQUARE_SHARE * samples
