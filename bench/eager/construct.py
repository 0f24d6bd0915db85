"""The searches for D_rand and D_R of Ilyas et al. 2019 in eager torch."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench.eager.steps import row_norm


def random_target(net: nn.Module, x: Tensor, targets: Tensor, budget: Any, steps: int) -> Tensor:
    """Run PGD towards the targets in the L2 ball, with the usual rescaling instead of the projection."""
    radius, x_adv = budget["threat"].radius, x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = nn.functional.cross_entropy(net(x_adv), targets, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        shift = x_adv.detach() - budget["step_size"] * (grad / row_norm(grad)) - x
        x_adv = (x + shift * (radius / row_norm(shift)).clamp_max(1)).clamp(0, 1)
    return x_adv


def headless(net: nn.Module) -> nn.Module:
    """Copy the net without its last linear layer: the copy returns the representation."""
    head = copy.deepcopy(net)
    last = [name for name, part in head.named_modules() if isinstance(part, nn.Linear)][-1]
    head.set_submodule(last, nn.Identity())
    return head


def robust(net: nn.Module, x: Tensor, start: Tensor, budget: Any, steps: int) -> Tensor:
    """Descend the distance between representations, from other images."""
    head = headless(net)
    with torch.no_grad():
        goal = head(x)
    x_adv = start.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        distance = torch.linalg.vector_norm(head(x_adv) - goal, dim=1)
        (grad,) = torch.autograd.grad(distance.sum(), x_adv)
        x_adv = (x_adv.detach() - budget["step_size"] * (grad / row_norm(grad))).clamp(0, 1)
    return x_adv


def constructed(name: str, net: nn.Module, data: "fa.data.ImageSet", budget: Any, batch: int) -> float:
    """Make either set, towards the next class or from the next image. Returns the fooling rate."""
    hits = []
    for ids in torch.arange(len(data), device=data.x.device).split(batch):
        x, y = data.x[ids].float() / 255, data.y[ids]
        if name == "D_rand":
            y = (y + 1) % 10
            x_adv = random_target(net, x, y, budget, budget["steps"])
        else:
            x_adv = robust(net, x, x.roll(1, 0), budget, budget["steps"])
        with torch.no_grad():
            hits.append(net((x_adv * 255).round() / 255).argmax(1) == y)
    return float(torch.cat(hits).float().mean())
