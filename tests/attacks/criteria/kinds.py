"""A small model for each criterion, and what counts as a success, by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks import Beyond, ConfidentlyWrong, Criterion, OutsideTopK, Share, Signs, Unless

from ..nets import images, linear, mlp

IGNORE = 9
Judge = Callable[[Tensor, Any], Tensor]  # (outputs, labels) -> bool [B]


@dataclass(frozen=True)
class Kind:
    """`met` says which outputs are a success against y, `reached` which have come to the targets."""

    model: nn.Module
    x: Tensor
    y: Tensor | None
    criterion: Criterion
    met: Judge
    targets: Tensor | None = None
    reached: Judge | None = None

    def labels(self, rows: Any) -> Tensor | None:
        return None if self.y is None else self.y[rows]

    def says(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            outputs: Tensor = self.model(x)
        return outputs

    def broken(self, x_adv: Tensor, rows: Any = slice(None)) -> Tensor:
        """Which points of these samples are a success; without labels, against the outputs at x."""
        return self.met(self.says(x_adv), (self.says(self.x) if self.y is None else self.y)[rows])


def _wrong_signs(outputs: Tensor, y: Tensor) -> Tensor:
    return torch.stack([((z > 0) != (row == 1)) & (row != -1) for z, row in zip(outputs, y, strict=True)])


def _wrong_share(outputs: Tensor, y: Tensor) -> Tensor:
    counts = y != IGNORE
    return ((outputs.argmax(1) != y) & counts).flatten(1).sum(1) / counts.flatten(1).sum(1)


def _away(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y).square().flatten(1).sum(1).sqrt()


def _cosine(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs * y).sum(1) / (outputs.norm(dim=1) * y.norm(dim=1))


@cache
def kinds() -> dict[str, Kind]:
    x, steep = images(6), linear(5).double()
    tags, dense, numbers = mlp(4), nn.Sequential(nn.Conv2d(1, 3, 3, padding=1)).double().eval(), mlp(2)
    with torch.no_grad():
        held, seen, at_x = (tags(x) > 0).long(), dense(x).argmax(1), numbers(x)
        classes = tags(x).argmax(1)
        steep[1].weight.mul_(5)
        first, second = steep(x).topk(2).indices.unbind(1)
    held[:, 0] = -1
    flipped = torch.where(held == -1, held, 1 - held)
    flipped[:, 1:3] = held[:, 1:3]
    y = seen.clone()
    y[:, 0, :2] = IGNORE
    none = torch.full_like(seen[:1], 0).expand_as(seen).clone()
    none[:, 0, :2] = IGNORE
    known = torch.where(classes == 3, 0, classes)
    return {
        "signs": Kind(
            tags, x, held, Signs(), lambda z, y: _wrong_signs(z, y).any(1),
            flipped, lambda z, t: ~_wrong_signs(z, t).any(1),
        ),
        "all signs": Kind(
            tags, x, held, Signs("all"), lambda z, y: (_wrong_signs(z, y) | (y == -1)).all(1)
        ),
        "share": Kind(
            dense, x, y, Share(0.5, ignore=IGNORE), lambda z, y: _wrong_share(z, y) >= 0.5,
            none, lambda z, t: _wrong_share(z, t) <= 0.5,
        ),
        "numbers": Kind(
            numbers, x, at_x + 0.1, Beyond(0.3), lambda z, y: _away(z, y) > 0.3,
            at_x + 0.3, lambda z, t: _away(z, t) <= 0.3,
        ),
        "number": Kind(mlp(1), x, None, Beyond(0.3), lambda z, y: (z - y).abs()[:, 0] > 0.3),
        "embeddings": Kind(
            numbers, x, None, Beyond(0.1, by="cosine"), lambda z, y: _cosine(z, y) < 0.9
        ),
        "unless": Kind(
            tags, x, known, Unless(3), lambda z, y: (z.argmax(1) != y) & (z.argmax(1) != 3)
        ),
        "sure": Kind(
            steep, x, first, ConfidentlyWrong(0.7),
            lambda z, y: (z.argmax(1) != y) & (z.softmax(1).amax(1) >= 0.7),
            second, lambda z, t: z.softmax(1).gather(1, t[:, None])[:, 0] >= 0.7,
        ),
        "top 2": Kind(
            steep, x, first, OutsideTopK(2), lambda z, y: ~(z.topk(2).indices == y[:, None]).any(1)
        ),
    }  # fmt: skip
