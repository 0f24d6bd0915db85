"""The sets D_rand and D_R of Ilyas et al. 2019 beside the same searches by hand, and the passes alone.

The budgets are the paper's. On a GPU the net is a ResNet-18; on a CPU a small CNN, and D_R has a tenth of the
steps. All take turns on the same images.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench import nets, pgd
from bench.by_hand import row_norm
from bench.clock import ratio
from bench.session import Case, Row, Session
from bench.subjects.training import images
from fastadv.data.construct import CIFAR10_PAPER

BUDGETS = {"D_rand": "d_rand", "D_R": "d_r"}
PROVIDERS = ("eager", "fastadv fp32", "fastadv bf16")
ON_GPU = {"D_rand": 1024, "D_R": 256}  # images; D_R takes ten times the steps
ON_CPU = {"images": 64, "steps": 100, "width": 32}
FIGURES = ("objective_before", "objective_after", "fooling_rate")


def cases(session: Session) -> Iterator[Case]:
    for name in BUDGETS:
        yield Case(name, partial(compared, session, name), needs=60)


def made(name: str, provider: str, net: nn.Module, data: "fa.data.ImageSet", budget: Any, batch: int) -> Row:
    """Construct a set by one provider. Returns the figures of the result."""
    if provider == "eager":
        return {"fooling_rate": round(by_hand(name, net, data, budget, batch), 4)}
    construct: Any = fa.data.construct.random_target if name == "D_rand" else fa.data.construct.robust
    precision: Any = provider.split()[1]
    measured = construct(fa.freeze(net, precision), data, **budget, batch_size=batch).card["measured"]
    return {figure: round(measured[figure], 4) for figure in FIGURES}


def compared(session: Session, name: str) -> Iterator[Row]:
    """Measure all providers and the passes alone in turns, after a warm-up of two steps."""
    if session.on_cpu:
        net, label = nets.small_net(width=ON_CPU["width"]), f"small CNN of width {ON_CPU['width']}"
    else:
        net, label = nets.resnet18(tiny=session.tiny).to(session.device), "ResNet-18"
    paper: Any = CIFAR10_PAPER[BUDGETS[name]]
    budget = {**paper, "steps": session.size(paper["steps"], 2, ON_CPU["steps"])}
    data, found = images(session, session.size(ON_GPU[name], 10, ON_CPU["images"])), dict[str, Row]()

    def run(provider: str, budget: Any) -> None:
        found[provider] = made(name, provider, net, data, budget, len(data))

    x = data.x.float() / 255
    searched = pgd.Problem(name, net, x, pgd.classes(net, x), 0.0, 0.0, budget["steps"])
    alone = {p: partial(pgd.passes, searched, fa.freeze(net, p)) for p in ("fp32", "bf16")}
    ways, warm = (
        {**{provider: partial(run, provider, each) for provider in PROVIDERS}, **alone}
        for each in (budget, {**budget, "steps": 2})
    )
    measured = [*session.compare(ways, "eager", least=session.size(1, 1, 3), warm=warm)]
    ceilings = {row["provider"]: values for row, values in measured if row["provider"] in alone and values}
    for row, values in measured:
        provider = row["provider"]
        if provider in found and values:
            row["what"] = f"{name}, {len(data)} images, {budget['steps']} steps, {label}"
            row |= {**found[provider], "ms_per_image": round(median(values) / len(data), 5)}
            if passes := ceilings.get("bf16" if "bf16" in provider else "fp32"):
                row["share_of_ceiling"] = round(ratio(passes, values), 3)
        if provider not in alone:
            yield row


def headless(net: nn.Module) -> nn.Module:
    """Copy the net without its last linear layer: the copy returns the representation."""
    head = copy.deepcopy(net)
    last = [name for name, part in head.named_modules() if isinstance(part, nn.Linear)][-1]
    head.set_submodule(last, nn.Identity())
    return head


def descended(
    x: Tensor, loss: Callable[[Tensor], Tensor], step: float, steps: int, around: Tensor, radius: float = inf
) -> Tensor:
    """Descend a loss by normalized steps, rescaled into the L2 ball without the exact projection."""
    for _ in range(steps):
        x = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(x), x)
        x = x.detach() - step * (grad / row_norm(grad))
        if radius < inf:
            shift = x - around
            x = around + shift * (radius / row_norm(shift)).clamp_max(1)
        x = x.clamp(0, 1)
    return x


def to_targets(net: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(x), y, reduction="sum")


def to_images(head: nn.Module, goal: Tensor, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(head(x) - goal, dim=1).sum()


def by_hand(name: str, net: nn.Module, data: "fa.data.ImageSet", budget: Any, batch: int) -> float:
    """Make either set, towards the next class or from the next image. Returns the fooling rate."""
    hits, head, step, steps = [], headless(net), budget["step_size"], budget["steps"]
    for ids in torch.arange(len(data), device=data.x.device).split(batch):
        x, y = data.x[ids].float() / 255, data.y[ids]
        if name == "D_rand":
            y = (y + 1) % 10
            loss = partial(to_targets, net, y)
            x_adv = descended(x, loss, step, steps, x, budget["threat"].radius)
        else:
            x_adv = descended(x.roll(1, 0), partial(to_images, head, head(x).detach()), step, steps, x)
        with torch.no_grad():
            hits.append(net((x_adv * 255).round() / 255).argmax(1) == y)
    return float(torch.cat(hits).float().mean())
