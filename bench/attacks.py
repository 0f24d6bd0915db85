"""PGD-40 against the same attack of other libraries, on the CNN of Schott et al.: time and final accuracy."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench.timing import quantiles, ratio, times

RADIUS, STEP, STEPS, IMAGES = 0.3, 0.01, 40, 256


def problem(
    data_dir: Path | None, weights: Path | None, device: torch.device
) -> tuple[nn.Module, Tensor, Tensor, str]:
    """The published CNN on MNIST test images, or else the same net untrained on random images."""
    model = fa.models.create("cnn")
    if weights is not None and data_dir is not None:
        model = fa.models.SchottCNN.from_official(weights)
        images = fa.data.load("mnist", "test", data_dir=data_dir, limit=IMAGES)
        x, y, _ = next(iter(fa.data.batches(images, IMAGES)))
        name = "published vanilla CNN, MNIST test"
    else:
        x = torch.rand(IMAGES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        y = torch.zeros(IMAGES, dtype=torch.int64)
        name = "untrained CNN, random images"
    return model.to(device).eval(), x.to(device), y.to(device), name


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loop of the papers, written by hand: each step is a forward, an input gradient and a move."""
    x_adv = x.clone()
    for _ in range(STEPS):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(model(x_adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x_adv.detach() + STEP * grad.sign()).clamp(x - RADIUS, x + RADIUS).clamp(0, 1)
    return x_adv


def providers(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Tensor]]:
    """PGD-40 of each provider, without early stop or random start; peers where they are installed."""

    def ours(target: Any) -> Tensor:
        out = fa.attacks.pgd(
            target, x, y, fa.Linf(RADIUS), steps=STEPS, step_size=STEP, stop_early=False, random_start=False
        )
        return out.x_adv

    ways: dict[str, Callable[[], Tensor]] = {
        "plain loop": lambda: plain(model, x, y),
        "fastadv fp32": lambda: ours(model),
        "fastadv bf16": lambda: ours(fa.freeze(model, precision="bf16")),
        "fastadv fp32, early stop": lambda: (
            fa.attacks.pgd(
                model, x, y, fa.Linf(RADIUS), steps=STEPS, step_size=STEP, random_start=False
            ).x_adv
        ),
    }
    try:
        import torchattacks

        peer = torchattacks.PGD(model, eps=RADIUS, alpha=STEP, steps=STEPS, random_start=False)
        ways["torchattacks"] = lambda: peer(x, y)
    except ImportError:
        logging.getLogger("bench").warning("torchattacks is not installed; its rows are missing")
    try:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=STEP, steps=STEPS, random_start=False
        )
        ways["foolbox"] = lambda: attack(wrapped, x, y, epsilons=RADIUS)[1]
    except ImportError:
        logging.getLogger("bench").warning("foolbox is not installed; its rows are missing")
    return ways


def rows(
    data_dir: Path | None, weights: Path | None, device: torch.device, seconds: float
) -> Iterator[dict[str, Any]]:
    """One row per provider."""
    model, x, y, name = problem(data_dir, weights, device)
    ways = providers(model, x, y)
    taken = times(ways, seconds, least=5)
    base = taken.get("torchattacks", taken["plain loop"])
    for provider, values in taken.items():
        x_adv = ways[provider]()
        with torch.no_grad():
            accuracy = float((model(x_adv).argmax(1) == y).float().mean())
        row = {
            "what": f"PGD-{STEPS} Linf {RADIUS}, {len(x)} images, {name}",
            "provider": provider,
            **quantiles(values),
            "accuracy": accuracy,
        }
        yield row | {
            "times_torchattacks" if "torchattacks" in taken else "times_plain": round(ratio(base, values), 2)
        }
