"""The nets on which PGD is measured, with their images and budgets."""

from pathlib import Path

import torch
from torch import nn

import fastadv as fa
from bench import pgd
from bench.gpu import nets
from bench.pgd import Problem

NAMES = ("cnn", "mlp", "small_cnn", "resnet18")


def what(given: Problem) -> str:
    """What is measured."""
    return f"PGD-{given.steps} Linf {given.radius:.3g}, {len(given.x)} images, {given.name}"


def problem(name: str, data_dir: Path | None, weights: Path | None, device: torch.device) -> Problem:
    """The CNN of Schott et al., published and on MNIST where both are given; or an untrained net."""
    if name == "cnn" and weights is not None and data_dir is not None:
        images = fa.data.load("mnist", "test", data_dir=data_dir, limit=256)
        x, y, _ = next(iter(fa.data.batches(images, len(images))))
        cnn = fa.models.SchottCNN.from_official(weights).to(device).eval()
        return Problem("published vanilla CNN, MNIST test", cnn, x.to(device), y.to(device), 0.3, 0.01, 40)
    if name == "cnn":
        cnn = fa.models.create("cnn")
        return _on_noise("untrained CNN, random images", cnn, (256, 1, 28, 28), 0.3, 0.01, 40, device)
    if name == "mlp":
        return _on_noise("MLP 784-256-10", nets.mlp(), (1024, 1, 28, 28), 0.3, 0.01, 40, device)
    if name == "small_cnn":
        small = nets.small_net(width=32)
        return _on_noise("small CNN of width 32", small, (256, 3, 32, 32), 8 / 255, 2 / 255, 20, device)
    return _on_noise("ResNet-18", nets.resnet18(), (64, 3, 32, 32), 8 / 255, 2 / 255, 10, device)


def _on_noise(
    name: str,
    model: nn.Module,
    shape: tuple[int, ...],
    radius: float,
    step_size: float,
    steps: int,
    device: torch.device,
) -> Problem:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    model = model.to(device).eval()
    return Problem(name, model, x, pgd.classes(model, x), radius, step_size, steps)
