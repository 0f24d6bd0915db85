"""PGD against the same attack of other libraries, on four nets: time and final accuracy.

The passes alone, a search's forwards and input gradients with one verdict before and one after, are what the
attack would take without work of its own.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import fastadv as fa
from bench import pgd
from bench.gpu import nets
from bench.pgd import Problem
from bench.timing import quantiles, ratio, times

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


def what(given: Problem) -> str:
    """What is measured."""
    return f"PGD-{given.steps} Linf {given.radius:.3g}, {len(given.x)} images, {given.name}"


def problems(data_dir: Path | None, weights: Path | None, device: torch.device) -> Iterator[Problem]:
    """The CNN of Schott et al., published and on MNIST where both are given; three untrained nets."""
    if weights is not None and data_dir is not None:
        images = fa.data.load("mnist", "test", data_dir=data_dir, limit=256)
        x, y, _ = next(iter(fa.data.batches(images, len(images))))
        cnn = fa.models.SchottCNN.from_official(weights).to(device).eval()
        yield Problem("published vanilla CNN, MNIST test", cnn, x.to(device), y.to(device), 0.3, 0.01, 40)
    else:
        cnn = fa.models.create("cnn")
        yield _on_noise("untrained CNN, random images", cnn, (256, 1, 28, 28), 0.3, 0.01, 40, device)
    yield _on_noise("MLP 784-256-10", nets.mlp(), (1024, 1, 28, 28), 0.3, 0.01, 40, device)
    small = nets.small_net(width=32)
    yield _on_noise("small CNN of width 32", small, (256, 3, 32, 32), 8 / 255, 2 / 255, 20, device)
    yield _on_noise("ResNet-18", nets.resnet18(), (64, 3, 32, 32), 8 / 255, 2 / 255, 10, device)


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


def providers(given: Problem) -> dict[str, Callable[[], Tensor]]:
    """PGD of each provider, without early stop unless the name says so; peers where they are installed."""
    ways: dict[str, Callable[[], Tensor]] = {
        "plain loop": lambda: pgd.plain(given),
        "fastadv fp32": lambda: pgd.ours(given, given.model),
        "fastadv bf16": lambda: pgd.ours(given, fa.freeze(given.model, precision="bf16")),
        "fastadv fp32, early stop": lambda: pgd.ours(given, given.model, stop_early=True),
    }
    for name, peer in (("torchattacks", pgd.torchattacks), ("foolbox", foolbox)):
        try:
            ways[name] = peer(given)
        except ImportError:
            logging.getLogger("bench").warning("%s is not installed; its rows are missing", name)
    return ways


def foolbox(given: Problem) -> Callable[[], Tensor]:
    """The peer's; ImportError where it is not installed."""
    import foolbox

    wrapped = foolbox.PyTorchModel(given.model, bounds=(0, 1), device=given.x.device)
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=given.step_size, steps=given.steps, random_start=False
    )
    return lambda: attack(wrapped, given.x, given.y, epsilons=given.radius)[1]


def rows(
    data_dir: Path | None, weights: Path | None, device: torch.device, seconds: float
) -> Iterator[dict[str, Any]]:
    """One row for each provider on each net, and for the passes alone."""
    for given in problems(data_dir, weights, device):
        ways = providers(given)
        twins = {precision: fa.freeze(given.model, precision) for precision in PRECISIONS}
        alone = {
            f"passes alone, {precision}": partial(pgd.passes, given, twin)
            for precision, twin in twins.items()
        }
        taken = times({**ways, **alone}, seconds, least=5)
        base = taken.get("torchattacks", taken["plain loop"])
        for provider, values in taken.items():
            row = {"what": what(given), "provider": provider, **quantiles(values)}
            if provider in ways:
                x_adv = ways[provider]()
                right = pgd.classes(given.model, x_adv) == given.y
                row["accuracy"] = float(right.float().mean())
            measure = "times_torchattacks" if "torchattacks" in taken else "times_plain"
            yield row | {measure: round(ratio(base, values), 2)}
