"""PGD against the same attack of other libraries, on four nets: time and final accuracy.

The passes alone, a search's forwards and input gradients with one verdict before and one after, are what the
attack would take without work of its own.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import fastadv as fa
from bench.gpu import nets
from bench.timing import quantiles, ratio, times

PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


@dataclass(frozen=True)
class Problem:
    """A net in eval mode, images of it, and the budget of PGD in L-infinity."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    radius: float
    step_size: float
    steps: int

    @property
    def text(self) -> str:
        """What is measured."""
        return f"PGD-{self.steps} Linf {self.radius:.3g}, {len(self.x)} images, {self.name}"


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
    with torch.no_grad():
        y = model(x).argmax(1)
    return Problem(name, model, x, y, radius, step_size, steps)


def plain(given: Problem) -> Tensor:
    """The loop of the papers, written by hand: each step is a forward, an input gradient and a move."""
    x, x_adv = given.x, given.x.clone()
    for _ in range(given.steps):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(given.model(x_adv), given.y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        moved = x_adv.detach() + given.step_size * grad.sign()
        x_adv = moved.clamp(x - given.radius, x + given.radius).clamp(0, 1)
    return x_adv


def passes(given: Problem, precision: Literal["fp32", "bf16"]) -> Callable[[], None]:
    """What the attack passes through the net, and nothing else."""
    frozen = fa.freeze(given.model, precision)

    def run() -> None:
        frozen.verdict(given.x)
        for _ in range(given.steps):
            frozen.input_gradient(given.x, given.y, direction=True)
        frozen.verdict(given.x)

    return run


def providers(given: Problem) -> dict[str, Callable[[], Tensor]]:
    """PGD of each provider, without early stop or random start; peers where they are installed."""
    model, x, y = given.model, given.x, given.y

    def ours(target: Any, **options: Any) -> Tensor:
        return fa.attacks.pgd(
            target, x, y, fa.Linf(given.radius), steps=given.steps, step_size=given.step_size,
            random_start=False, **options,
        ).x_adv  # fmt: skip

    ways: dict[str, Callable[[], Tensor]] = {
        "plain loop": lambda: plain(given),
        "fastadv fp32": lambda: ours(model, stop_early=False),
        "fastadv bf16": lambda: ours(fa.freeze(model, precision="bf16"), stop_early=False),
        "fastadv fp32, early stop": lambda: ours(model),
    }
    try:
        import torchattacks

        peer = torchattacks.PGD(
            model, eps=given.radius, alpha=given.step_size, steps=given.steps, random_start=False
        )
        ways["torchattacks"] = lambda: peer(x, y)
    except ImportError:
        logging.getLogger("bench").warning("torchattacks is not installed; its rows are missing")
    try:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=given.step_size, steps=given.steps, random_start=False
        )
        ways["foolbox"] = lambda: attack(wrapped, x, y, epsilons=given.radius)[1]
    except ImportError:
        logging.getLogger("bench").warning("foolbox is not installed; its rows are missing")
    return ways


def rows(
    data_dir: Path | None, weights: Path | None, device: torch.device, seconds: float
) -> Iterator[dict[str, Any]]:
    """One row for each provider on each net, and for the passes alone."""
    for given in problems(data_dir, weights, device):
        ways = providers(given)
        alone = {f"passes alone, {precision}": passes(given, precision) for precision in PRECISIONS}
        taken = times({**ways, **alone}, seconds, least=5)
        base = taken.get("torchattacks", taken["plain loop"])
        for provider, values in taken.items():
            row = {"what": given.text, "provider": provider, **quantiles(values)}
            if provider in ways:
                x_adv = ways[provider]()
                with torch.no_grad():
                    wrong = given.model(x_adv).argmax(1) != given.y
                row["accuracy"] = 1 - float(wrong.float().mean())
            measure = "times_torchattacks" if "torchattacks" in taken else "times_plain"
            yield row | {measure: round(ratio(base, values), 2)}
