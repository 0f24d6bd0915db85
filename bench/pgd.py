"""PGD in L-infinity without a random start: a problem, the loop by hand, ours, and what nobody can save."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa


@dataclass(frozen=True)
class Problem:
    """A net in eval mode, images in [0, 1] with labels, and the budget of PGD in L-infinity.

    `unit` is the precision in which the device takes the net's float32 products.
    """

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    radius: float
    step_size: float
    steps: int
    unit: str = "fp32"

    @property
    def threat(self) -> fa.Linf:
        return fa.Linf(self.radius)


def classes(model: nn.Module, x: Tensor) -> Tensor:
    """What `model` says of the images, the labels where there are none."""
    with torch.no_grad():
        said: Tensor = model(x).argmax(1)
    return said


def plain(given: Problem, start: Tensor | None = None) -> Tensor:
    """The loop of the papers, written by hand: each step is a forward, an input gradient and a move."""
    x, x_adv = given.x, (given.x if start is None else start).clone()
    for _ in range(given.steps):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(given.model(x_adv), given.y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        moved = x_adv.detach() + given.step_size * grad.sign()
        x_adv = moved.clamp(x - given.radius, x + given.radius).clamp(0, 1)
    return x_adv


def ours(given: Problem, target: Any, *, stop_early: bool = False) -> Tensor:
    """fastadv's, at the model or a twin of it."""
    x_adv: Tensor = fa.attacks.pgd(
        target, given.x, given.y, given.threat, steps=given.steps, step_size=given.step_size,
        random_start=False, loss="ce", stop_early=stop_early,
    ).x_adv  # fmt: skip
    return x_adv


def passes(given: Problem, frozen: fa.Frozen) -> None:
    """What cannot be saved: the gradients of all steps, and the verdicts before and after."""
    frozen.verdict(given.x)
    for _ in range(given.steps):
        frozen.input_gradient(given.x, given.y, direction=True)
    frozen.verdict(given.x)
