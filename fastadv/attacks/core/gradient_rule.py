"""Gradient rules: what an attack follows in place of the plain gradient."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from fastadv import losses
from fastadv.attacks.core.search import Search
from fastadv.errors import InputError
from fastadv.threat import Threat

# points [n, ...] -> the gradient of the loss there, each sample's own
GradientAt = Callable[[Tensor], Tensor]


class GradientRule:
    """A rule that makes the gradient that an attack follows from gradients of the model.

    A subclass is a small frozen dataclass. The first rule of a list asks the model; each other one asks the
    rule before it. It draws random numbers from `search.uniform`, and keeps what it remembers of each sample
    in `search.memory`, whose rows follow the samples that stay.

    Attributes:
        linear: whether it asks once and is linear in the answer, so that a gradient is enough that is right
            up to a positive factor for each sample.
        last: whether it must come after all rules that are not of this kind; there may be one rule of a kind.
    """

    linear: ClassVar[bool] = False
    last: ClassVar[bool] = False

    def check(self, x: Tensor, threat: Threat) -> None:
        """Raise InputError where the rule does not serve x [B, ...] or the threat of the search."""

    def __call__(self, search: Search[Any], points: Tensor, ask: GradientAt) -> Tensor:
        """Return the gradient to follow at points [n, ...], like these; `ask` gives that of any points."""
        raise NotImplementedError


GradientRules = GradientRule | Sequence[GradientRule]


def rules_of(gradient: Any) -> tuple[GradientRule, ...]:
    rules = tuple(gradient) if isinstance(gradient, Sequence) else (gradient,)
    for place, rule in enumerate(rules):
        if not isinstance(rule, GradientRule):
            raise InputError(
                "gradient: expected gradient rules, derived from fastadv.attacks.core.GradientRule, "
                f"got {gradient!r}"
            )
        for before in rules[:place]:
            if before.last and (not rule.last or type(before) is type(rule)):
                held = type(before).__name__
                raise InputError(f"gradient: expected {held} once and at the end, got {gradient!r}")
    return rules


def follow(
    search: Search[Any], seen: Tensor, loss: losses.Loss, rules: Sequence[GradientRule]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss and logits at points `seen` [n, ...] themselves, and the gradient that the rules make."""
    direction = all(rule.linear for rule in rules)
    there: list[tuple[Tensor, Tensor]] = []

    def ask(points: Tensor) -> Tensor:
        value, logits, gradient = search.input_gradient(points, loss, direction)
        if points is seen:
            there.append((value, logits))
        return gradient.to(points.dtype)

    chain: GradientAt = ask
    for rule in rules:
        chain = partial(rule, search, ask=chain)
    gradient = chain(seen)
    value, logits = there[0] if there else search.loss_at(seen, loss)
    return value, logits, gradient
