"""Several models that vote by their probabilities, attacked as one."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._checks import check_count
from fastadv.errors import InputError
from fastadv.models.registry import create


class Ensemble(nn.Module):
    """The mean of the members' probabilities, as logits log(mean over m of softmax(model_m(x))).

    Called with x as the members take it, it returns logits [B, K], each at most 0. Their softmax is that
    mean, so cross-entropy and its gradient are those of the ensemble as one model. Attack one of `members` to
    craft examples on it alone.

    Args:
        members: models with the same classes, at least one.

    Raises:
        InputError: there are no members.

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 9: twelve maxout networks.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not self.members:
            raise InputError("members: expected at least one model, got none")

    def forward(self, x: Tensor) -> Tensor:
        each = torch.stack([member(x).log_softmax(1) for member in self.members])
        return each.logsumexp(0) - math.log(len(self.members))


def ensemble(
    shape: tuple[int, ...] = (1, 28, 28),
    classes: int = 10,
    *,
    model: str = "maxout",
    members: int = 12,
    seed: int | None = 0,
    **options: Any,
) -> Ensemble:
    """Return an `Ensemble` of the built-in model of that name; each member has first weights of its own."""
    check_count("members", members, 1)
    seeds = [None if seed is None else rng.derive(seed, "member", number) for number in range(members)]
    return Ensemble(create(model, shape=shape, classes=classes, seed=each, **options) for each in seeds)
