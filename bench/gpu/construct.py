"""`make gpu`, stage construct: the sets D_rand and D_R of Ilyas et al. 2019 with a ResNet-18.

The budgets are the paper's. Eager torch runs the same search by hand, on fewer images where it is slow: rows
say how many, and times are compared for each image.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench.gpu import nets
from bench.gpu.session import Case, Row, Session, conv_precision, median, said
from bench.gpu.training import forward_flops, images
from bench.timing import quantiles
from fastadv.data.construct import CIFAR10_PAPER

# images at float32, at bfloat16 and in eager torch; D_R takes ten times the steps of D_rand
COUNTS = {"D_rand": (10_000, 50_000, 2_048), "D_R": (1_024, 4_096, 512)}
BATCH = 1024
FIGURES = ("objective_before", "objective_after", "fooling_rate")


def cases(session: Session) -> Iterator[Case]:
    for name in COUNTS:
        yield Case(name, lambda name=name: compared(session, name), needs=60)


def compared(session: Session, name: str) -> Iterator[Row]:
    """Each provider in turn; how many times faster than eager an image is made."""
    base = None
    for provider in ("eager fp32", "fastadv fp32", "fastadv bf16"):
        if session.left() <= 0:
            session.note(f"{name}: the stage's time was used up before {provider}")
            return
        try:
            row = construct(session, name, provider)
        except Exception as error:
            if session.dead():
                raise
            row = {"error": said(error)}
        if "ms_per_image" in row:
            base = base or row["ms_per_image"]
            row["times_eager"] = round(base / row["ms_per_image"], 2)
        yield {"provider": provider, **row}


def normalized(grad: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(grad.flatten(1), dim=1).clamp_min(1e-12)
    return grad / norm.view(-1, 1, 1, 1)


def eager_random_target(net: nn.Module, x: Tensor, targets: Tensor, budget: Any, steps: int) -> Tensor:
    """PGD towards the targets in the L2 ball, written by hand; the usual rescaling, no exact projection."""
    radius, x_adv = budget["threat"].radius, x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(net(x_adv), targets, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        shift = x_adv.detach() - budget["step_size"] * normalized(grad) - x
        norm = torch.linalg.vector_norm(shift.flatten(1), dim=1).clamp_min(1e-12)
        x_adv = (x + shift * (radius / norm).clamp_max(1).view(-1, 1, 1, 1)).clamp(0, 1)
    return x_adv


def headless(net: nn.Module) -> nn.Module:
    """A copy that gives the representation: what enters the last linear layer."""
    head = copy.deepcopy(net)
    last = [name for name, part in head.named_modules() if isinstance(part, nn.Linear)][-1]
    head.set_submodule(last, nn.Identity())
    return head


def eager_robust(net: nn.Module, x: Tensor, start: Tensor, budget: Any, steps: int) -> Tensor:
    """Descent of the distance between representations, from other images, written by hand."""
    head = headless(net)
    with torch.no_grad():
        goal = head(x)
    x_adv = start.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        distance = torch.linalg.vector_norm(head(x_adv) - goal, dim=1)
        (grad,) = torch.autograd.grad(distance.sum(), x_adv)
        x_adv = (x_adv.detach() - budget["step_size"] * normalized(grad)).clamp(0, 1)
    return x_adv


def by_fastadv(
    name: str, net: nn.Module, data: "fa.data.ImageSet", budget: Any, batch: int, precision: Any
) -> Row:
    """The construction as a user calls it; what its card says."""
    function: Callable[..., Any] = (
        fa.data.construct.random_target if name == "D_rand" else fa.data.construct.robust
    )
    measured = function(fa.freeze(net, precision), data, **budget, batch_size=batch).card["measured"]
    return {figure: round(measured[figure], 4) for figure in FIGURES}


def by_hand(name: str, net: nn.Module, data: "fa.data.ImageSet", budget: Any, batch: int) -> Row:
    """The same searches in eager torch, towards the next class, or from the next image."""
    hits = []
    for ids in torch.arange(len(data), device=data.x.device).split(batch):
        x, y = data.x[ids].float() / 255, data.y[ids]
        if name == "D_rand":
            y = (y + 1) % 10
            x_adv = eager_random_target(net, x, y, budget, budget["steps"])
        else:
            x_adv = eager_robust(net, x, x.roll(1, 0), budget, budget["steps"])
        with torch.no_grad():
            hits.append(net((x_adv * 255).round() / 255).argmax(1) == y)
    return {"fooling_rate": round(float(torch.cat(hits).float().mean()), 4)}


def construct(session: Session, name: str, provider: str) -> Row:
    """One construction after a warm-up on one batch and two steps."""
    which = {"fastadv fp32": 0, "fastadv bf16": 1, "eager fp32": 2}[provider]
    count, batch = session.size(COUNTS[name][which], 10), session.size(BATCH, 10)
    base = images(session, count)
    net = (nets.resnet18(width=4) if session.tiny else nets.resnet18()).to(session.device)
    paper: Any = CIFAR10_PAPER["d_rand" if name == "D_rand" else "d_r"]
    steps = session.size(paper["steps"], 2)
    made: list[Row] = []

    def run(data: "fa.data.ImageSet", steps: int) -> Row:
        given = (name, net, data, {**paper, "steps": steps}, batch)
        return by_hand(*given) if which == 2 else by_fastadv(*given, provider.split()[1])

    memory = session.warmed(lambda: run(base.subset(torch.arange(min(batch, count))), 2))
    values = session.times({"": lambda: made.append(run(base, steps))}, least=1)[""]
    # a step is a forward and an input gradient
    flops = 2 * steps * forward_flops(net, base.x[:1].float()) * count
    precision = "bf16" if "bf16" in provider else conv_precision(session)
    return {
        "images": count,
        "batch": batch,
        "steps": steps,
        **quantiles(values),
        **memory,
        "seconds": round(median(values) / 1000, 3),
        "ms_per_image": round(median(values) / count, 5),
        **session.ceilings.share_of_products(flops, median(values), precision),
        **made[-1],
        "turns": len(values),
    }
