"""What the recipes share: the loss J, its mixture over clean and changed images, and noise."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.errors import InputError


def check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name}: expected a number from 0 to 1, got {value}")


def check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{name}: expected a number > 0, got {value}")


def mean_loss(logits: Tensor, y: Tensor, smoothing: float = 0.0, loss: str = "ce") -> Tensor:
    if loss == "bce":
        return fa.losses.binary_cross_entropy(logits, y, smoothing).mean()
    return cross_entropy(logits, y, label_smoothing=smoothing)


def mixture(
    model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, weight: float, smoothing: float, loss: str = "ce"
) -> Tensor:
    """Compute weight · J(x, y) + (1 - weight) · J(x_adv, y) in one pass, so that BatchNorm sees both."""
    if weight == 0:
        return mean_loss(model(x_adv), y, smoothing, loss)
    both = model(torch.cat([x, x_adv])).tensor_split(2)
    clean, changed = (mean_loss(logits, y, smoothing, loss) for logits in both)
    return weight * clean + (1 - weight) * changed


def drawn(kind: Callable[..., Tensor], x: Tensor, ids: Tensor | None, seed: int, purpose: str) -> Tensor:
    """Draw numbers like x, of a kind of `fa.rng`, keyed by (seed, id): 0 .. B - 1 unless given."""
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    return kind(x[0].numel(), fa.rng.derive(seed, purpose), ids).to(x).view_as(x)
