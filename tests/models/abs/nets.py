"""Tiny ABS models and the images they explain."""

import torch

from fastadv.models import ABS

STRIDES = (1, 2)


def decoders(classes=3, latents=2, channels=1, seed=0):
    """Weights and biases that decode [latents] to [channels, 8, 8], each class to images of its own."""
    g = torch.Generator().manual_seed(seed)
    weights = [
        torch.randn(classes, latents, 6, 3, 3, generator=g) * 0.5,
        torch.randn(classes, 6, channels, 4, 4, generator=g) * 0.5,
    ]
    biases = [torch.randn(classes, 6, generator=g), torch.randn(classes, channels, generator=g) * 0.5]
    return weights, biases


def tiny(classes=3, latents=2, channels=1, seed=0, **options):
    return ABS(*decoders(classes, latents, channels, seed), STRIDES, **{"prior_samples": 200, **options})


def gradient(model, x, k):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, k].sum(), leaf)[0]


def images(model, count=6, noise=0.1, seed=1):
    """(x, y): what the decoders draw for random latents, with noise; class i % K."""
    g = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, model.classes, model.shape.channels[0], generator=g)
    y = torch.arange(count) % model.classes
    clean = model.decoders(latents)[torch.arange(count), y]
    return (clean + noise * torch.randn(clean.shape, generator=g)).clamp(0, 1), y
