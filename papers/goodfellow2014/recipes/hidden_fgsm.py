"""Adversarial training in a hidden layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError
from papers.goodfellow2014.recipes.losses import check_positive, check_share, mixture


@dataclass(frozen=True)
class HiddenFGSM:
    """Goodfellow's objective on the input h of a hidden layer in place of the image (section 6).

    It is weight · J(h, y) + (1 - weight) · J(h + radius · sign(∇J), y), the mean over the batch. `module` is
    the name of the layer that h enters, as in `model.named_modules()`, or its number in a Sequential: of
    Maxout, "hidden.1" has the units of the first layer, and "linear" those of the last.

    The direction is that of the model in eval mode with the current weights, and no gradient flows through
    it. A radius in hidden units means little where these have no bound: the network then learns to make its
    activations large. Goodfellow et al. found it usually better to perturb the input.
    """

    module: str | int
    radius: float
    weight: float = 0.5
    label_smoothing: float = 0.0
    loss: str = "ce"

    def __post_init__(self) -> None:
        check_positive("radius", self.radius)
        check_share("weight", self.weight)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        move = self.radius * self._direction(model, x, y)
        if self.weight > 0:  # the clean half of the batch comes first
            move = torch.cat([torch.zeros_like(move), move])
        with entering(model, str(self.module), lambda h: h + move):
            return mixture(model, x, x, y, self.weight, self.label_smoothing, self.loss)

    def _direction(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the sign of the gradient at h."""
        seen = list[Tensor]()

        def leaf(h: Tensor) -> Tensor:
            seen.append(h.detach().requires_grad_())
            return seen[-1]

        trained = [part for part in model.modules() if part.training]
        model.eval()
        try:
            with torch.enable_grad(), entering(model, str(self.module), leaf):
                logits = model(x)
        finally:
            for part in trained:
                part.training = True
        if len(seen) != 1:
            raise InputError(
                f"module: expected a layer that runs once in forward, got {self.module!r}, which ran "
                f"{len(seen)} times; name another"
            )
        by_logits = fa.losses.loss_and_grad(logits.detach(), y, self.loss, direction=True)[1]
        return torch.autograd.grad(logits, seen[0], by_logits.to(logits.dtype))[0].sign()


@contextmanager
def entering(model: nn.Module, module: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give `module` of the model change(h) in place of its input h, inside."""

    def before(part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(given[0]), *given[1:])

    parts = dict(model.named_modules())
    if module not in parts:
        raise InputError(
            f"module: expected the name of a layer of the model, got {module!r}; see model.named_modules()"
        )
    handle = parts[module].register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
