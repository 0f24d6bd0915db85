"""From images to class losses: the search among the prior samples, then the descent."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.models.abs.generators import Generators
from fastadv.ops.latent_fit import latent_fit
from fastadv.ops.nearest_prototype import nearest_prototype

# images worked on at once: bounds the memory of the decoders' activations, about 1 MB an image of MNIST
CHUNK = 250


@dataclass(frozen=True, eq=False)
class Inference:
    """What ABS found for a batch: loss [B, K] a class, the latents [B, K, L] that reach it, and their images [B, K, C, H, W]."""

    loss: Tensor
    latents: Tensor
    reconstruction: Tensor


def infer(
    model: Generators, x: Tensor, steps: int | None = None, step_size: float | None = None
) -> Inference:
    """Losses with the class factors, latents and reconstructions; see ABS.infer."""
    with torch.no_grad():
        parts = []
        for seen in torch.split(model.observed(x), CHUNK):
            loss, latents = find(model, seen, steps, step_size)
            parts.append((loss * model.factors if model.binary else loss, latents, model.decode(latents)))
        return Inference(*(torch.cat(part) for part in zip(*parts, strict=True)))


def find(
    model: Generators, seen: Tensor, steps: int | None = None, step_size: float | None = None
) -> tuple[Tensor, Tensor]:
    """(loss [B, K], latents [B, K, L]) at images as `observed` gives them, by all classes or pruned; no gradient, no class factors."""
    steps, step_size = (
        model.steps if steps is None else steps,
        model.step_size if step_size is None else step_size,
    )
    if steps < 1 or not step_size > 0:
        raise InputError(
            f"infer: expected steps of at least 1 and a positive step_size, got {steps} and {step_size}"
        )
    with torch.no_grad():
        return (infer_pruned if model.prune else infer_all)(model, seen.detach(), steps, step_size)


def search_prior(
    model: Generators, seen: Tensor, beta: float, part: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """For each class the least loss [B, K] among the prior samples of `part`, and their latents [B, K, L]."""
    prior = model.prior_latents[part]
    bias = (beta / 2 * prior.square().sum(1)).expand(model.classes, -1)
    found, index = nearest_prototype(seen.flatten(1), model.bank()[:, part], bias.contiguous())
    return found / seen.shape[1:].numel(), prior[index]


def descend(
    model: Generators,
    seen: Tensor,
    start: Tensor,
    *,
    steps: int,
    step_size: float,
    beta: float,
    only: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """(loss [B, k], latents [B, k, L]) of the Adam descent from `start` for the classes of `only`."""
    weights, biases = ([part[only] for part in parts] for parts in (model.weights, model.biases))
    loss, latents = latent_fit(
        seen, start, weights, biases, list(model.shape.strides),
        beta=beta, steps=steps, step_size=step_size, max_norm=model.max_norm, bf16=model.precision == "bf16",
    )  # fmt: skip
    return loss, latents


def infer_all(model: Generators, seen: Tensor, steps: int, step_size: float) -> tuple[Tensor, Tensor]:
    """(loss [B, K], latents [B, K, L]) of every class, without the class factors."""
    _, start = search_prior(model, seen, model.beta)
    return descend(model, seen, start, steps=steps, step_size=step_size, beta=model.beta)


def infer_pruned(model: Generators, seen: Tensor, steps: int, step_size: float) -> tuple[Tensor, Tensor]:
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
                fitted = descend(
                    model,
                    seen[rows],
                    latents[rows, k : k + 1],
                    steps=steps,
                    step_size=step_size,
                    beta=model.beta,
                    only=slice(k, k + 1),
                )
                loss[rows, k], latents[rows, k] = (part.squeeze(1) for part in fitted)
                best[rows] = torch.minimum(best[rows], loss[rows, k] * factors[k])
    return loss, latents
