"""Class losses as differentiable functions of the image, and the update of the latent descent."""

import torch
from torch import Tensor

from fastadv.models.abs.decoder import Decoders
from fastadv.models.abs.options import InferenceOptions


def squared_misfit(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return ||G_k(z) - x||^2, [B, K], of reconstructions [B, K, ...]."""
    return (reconstruction - x[:, None]).flatten(2).square().sum(2)


def class_losses(x: Tensor, reconstruction: Tensor, latents: Tensor, beta: float) -> Tensor:
    """Return (||G_k(z) - x||^2 + beta/2 ||z||^2) / D, [B, K], of latents [B, K, L] and their images."""
    return (squared_misfit(x, reconstruction) + beta / 2 * latents.square().sum(2)) / x.shape[1:].numel()


def with_gradient_of(value: Tensor, function: Tensor) -> Tensor:
    """Return `value`, bit for bit, with the gradient of `function`: a finite number minus itself is zero."""
    return value + (function - function.detach())


def adam_step(
    latents: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    step: int,
    step_size: float,
    max_norm: float,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return (latents, moments) after Adam's step number `step`, from 1, and the clipping of norms."""
    mean, square = 0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient.square()
    # The derivative of the root at zero is infinite; a tiny floor keeps it finite without changing a step.
    root = (square / (1 - 0.999**step) + 1e-24).sqrt()
    latents = latents - step_size * (mean / (1 - 0.9**step)) / (root + 1e-8)
    shrunk = latents * (max_norm / latents.norm(dim=2, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
    return shrunk, (mean, square)


def unrolled(
    x: Tensor, start: Tensor, decoders: Decoders, options: InferenceOptions
) -> tuple[Tensor, Tensor]:
    """Return (losses [B, K], latents [B, K, L]) of the Adam descent from `start`, with its graph kept.

    The gradient with respect to x goes through every step, so it is that of the descent as it runs, not of
    its limit. Memory grows with `steps`.
    """
    latents = start.detach().requires_grad_()
    moments = torch.zeros_like(latents), torch.zeros_like(latents)
    for step in range(1, options.steps):
        losses = class_losses(x, decoders(latents), latents, options.beta)
        (gradient,) = torch.autograd.grad(losses.sum(), latents, create_graph=True)
        latents, moments = adam_step(latents, gradient, moments, step, options.step_size, options.max_norm)
    return class_losses(x, decoders(latents), latents, options.beta), latents
