"""From images to class losses: the search among the prior samples, then the descent."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastadv.ops.latent_fit import latent_fit
from fastadv.ops.nearest_prototype import nearest_prototype

# what a descent leaves of the loss at its start, at least: with the authors' weights 99.8% of the losses of 3,000 training images keep more
PRUNE_GAIN = 0.385

if TYPE_CHECKING:
    from fastadv.models.abs.model import ABS


def search_prior(model: "ABS", seen: Tensor, beta: float, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """For each class the least loss [B, K] among the prior samples of `part`, and their latents [B, K, L]."""
    prior = model.prior_latents[part]
    bias = (beta / 2 * prior.square().sum(1)).expand(model.classes, -1)
    found, index = nearest_prototype(seen.flatten(1), model.bank()[:, part], bias.contiguous())
    return found / seen.shape[1:].numel(), prior[index]


def descend(
    model: "ABS", seen: Tensor, start: Tensor, *, steps: int, step_size: float, beta: float, only: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """(loss [B, k], latents [B, k, L]) of the Adam descent from `start` for the classes of `only`."""
    weights, biases = ([part[only] for part in parts] for parts in (model.weights, model.biases))
    loss, latents = latent_fit(
        seen, start, weights, biases, list(model.shape.strides),
        beta=beta, steps=steps, step_size=step_size, max_norm=model.max_norm, bf16=model.precision == "bf16",
    )  # fmt: skip
    return loss, latents


def infer_all(model: "ABS", seen: Tensor, steps: int, step_size: float) -> tuple[Tensor, Tensor]:
    """(loss [B, K], latents [B, K, L]) of every class, without the class factors."""
    _, start = search_prior(model, seen, model.beta)
    return descend(model, seen, start, steps=steps, step_size=step_size, beta=model.beta)


def infer_pruned(model: "ABS", seen: Tensor, steps: int, step_size: float) -> tuple[Tensor, Tensor]:
    """As `infer_all`, but classes are fitted in the order of their prior losses, and only those that may still win.

    The descent has been seen to bring a loss down to no less than `model.prune_gain` times that of its start. A class whose
    start, so reduced, does not beat the best loss found is left at its start; the others' losses are those of `infer_all`.
    """
    loss, latents = search_prior(model, seen, model.beta)
    factors = model.factors if model.binary else torch.ones_like(model.factors)
    order = (loss * factors).argsort(dim=1)
    promised = loss * factors * model.prune_gain
    best = torch.full_like(loss[:, 0], torch.inf)
    for rank in order.unbind(1):
        alive = promised.gather(1, rank[:, None]).squeeze(1) < best
        if not bool(alive.any()):
            break
        for k in range(model.classes):
            rows = ((rank == k) & alive).nonzero().squeeze(1)
            if len(rows):
                fitted = descend(model, seen[rows], latents[rows, k : k + 1], steps=steps, step_size=step_size, beta=model.beta, only=slice(k, k + 1))
                loss[rows, k], latents[rows, k] = (part.squeeze(1) for part in fitted)
                best[rows] = torch.minimum(best[rows], loss[rows, k] * factors[k])
    return loss, latents
