"""The passes of an attack through its model: how many, in which batches, and what they cost alone."""

import statistics
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench.clock import wall


class Log(list[tuple[str, int]]):
    """The batches that passed, each "forward" or "backward" and its size; a copy of a model shares it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Log":
        return self

    def samples(self, way: str) -> int:
        return sum(size for which, size in self if which == way)


class Counting(nn.Module):
    """A model that logs the samples that pass forward, and those whose gradient comes back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.log = model, Log()
        self.train(model.training)

    @property
    def forwards(self) -> int:
        return self.log.samples("forward")

    @property
    def backwards(self) -> int:
        return self.log.samples("backward")

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(("forward", len(x)))
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, grad: Tensor) -> None:
        self.log.append(("backward", len(grad)))


def alone(model: nn.Module, x: Tensor, y: Tensor, turns: int = 5) -> Callable[[Log], float]:
    """A function that says how many seconds logged batches take with nothing around them.

    Each goes through the faster of the model and its frozen twin. Powers of two are timed, each once for all
    logs; between two of them the time is a straight line.
    """
    frozen = fa.freeze(model)

    def gradient(points: Tensor, labels: Tensor) -> None:
        points = points.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(points), labels, reduction="sum")
        torch.autograd.grad(loss, points)

    def forward(points: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            model(points)

    def best(points: Tensor, labels: Tensor, *ways: Callable[[Tensor, Tensor], object]) -> float:
        taken = ([wall(partial(way, points, labels))[0] for _ in range(turns)] for way in ways)
        return min(map(statistics.median, taken))

    @cache
    def seconds(size: int) -> dict[str, float]:
        rows = torch.arange(size, device=x.device) % len(x)
        points, labels = x[rows], y[rows]
        once = best(points, labels, forward, lambda points, labels: frozen(points))
        both = best(points, labels, gradient, frozen.input_gradient)
        return {"forward": once, "backward": both - once}

    def between(way: str, size: int) -> float:
        low = 1 << (size.bit_length() - 1)
        if low == size:
            return seconds(size)[way]
        share = size / low - 1
        return (1 - share) * seconds(low)[way] + share * seconds(2 * low)[way]

    return lambda log: sum(between(way, size) for way, size in log)
