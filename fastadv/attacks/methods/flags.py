"""What AutoAttack warns about, and what its components cost."""

from collections.abc import Mapping
from dataclasses import dataclass

SQUARE_SHARE = 0.002  # of the samples, by which Square may lower the robust accuracy without a flag
# words of the flags, by name
FLAGS = {
    "randomized": 'passes on the same samples differ; use version="rand"',
    "probabilities": "the output looks like probabilities; give the logits to the attack",
    "zero_gradient": "the gradient is zero for some samples; attacks by gradients may miss what is there",
    "square": "Square broke samples that attacks by gradients left; the model may mask its gradients",
    "optimizes": "a forward pass optimizes something; an adaptive attack may find more",
}
SQUARE_FLAG = f"square: {FLAGS['square']}"


@dataclass(frozen=True)
class Cost:
    """What a component did: the samples it attacked, those it broke, samples passed, and seconds."""

    samples: int
    broken: int
    forwards: int
    backwards: int
    seconds: float


def square_stands_out(costs: Mapping[str, Cost], samples: int) -> bool:
    """Return whether Square broke so many that attacks by gradients had left that it is a flag."""
    broken = sum(cost.broken for name, cost in costs.items() if name.split()[-1] == "square")
    return broken > SQUARE_SHARE * samples
