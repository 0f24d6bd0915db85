"""PGD-7 training written by hand: the usual loop, and that of the package `robustness`.

The loops do the same work: the attack on the model in eval mode, without weight gradients, then a step of SGD
on the model in train mode. The second is in the order of github.com/MadryLab/robustness 1.2.1, which does not
install beside today's torchvision: it keeps the strongest point of each attack, which costs a forward at the
end.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from bench.by_hand import captured_call
from bench.timing import wall

RADIUS, STEP, STEPS = 8 / 255, 2 / 255, 7
LEARNING_RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Run PGD from a random start."""
    model.eval()
    x_adv = (x + RADIUS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        loss = cross_entropy(model(x_adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x_adv.detach() + STEP * grad.sign()).clamp(x - RADIUS, x + RADIUS).clamp(0, 1)
    model.train()
    return x_adv


def strongest(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Run PGD from a random start and keep the strongest point."""
    model.eval()
    best, highest = x.clone(), torch.full((len(x),), -torch.inf)
    z = (x + RADIUS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for step in range(STEPS + 1):
        z = z.clone().detach().requires_grad_(step < STEPS)
        losses = cross_entropy(model(z), y, reduction="none")
        loss = losses.detach()
        best = torch.where((loss > highest).view(-1, 1, 1, 1), z.detach(), best)
        highest = loss.maximum(highest)
        if step < STEPS:
            (grad,) = torch.autograd.grad(losses.mean(), [z])
            with torch.no_grad():
                z = z + STEP * grad.sign()
                z = (x + (z - x).clamp(-RADIUS, RADIUS)).clamp(0, 1)
    model.train()
    return best


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY)


def plain(model: nn.Module, data: "fa.data.ImageSet", batch: int, bf16: bool = False) -> float:
    """Train for an epoch. Returns the mean loss."""
    optimizer = _optimizer(model)
    if bf16:
        model.to(memory_format=torch.channels_last)
    total = torch.zeros((), device=data.x.device)
    order = torch.randperm(len(data), device=data.x.device)
    for ids in order.split(batch):
        x, y = data.x[ids].float() / 255, data.y[ids]
        if bf16:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            x_adv = attacked(model, x, y)
            loss = cross_entropy(model(x_adv), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(x)
    return float(total) / len(data)


def captured(model: nn.Module, data: "fa.data.ImageSet", batch: int, steps: int = STEPS) -> float:
    """Train in bfloat16 from one CUDA graph of a step on one batch: no gather, no augmentation.

    Returns the seconds that as many steps take as an epoch has. Without a GPU each step runs as it is.
    """
    optimizer = _optimizer(model.to(memory_format=torch.channels_last))
    x = (data.x[:batch].float() / 255).contiguous(memory_format=torch.channels_last)
    y, count = data.y[:batch], len(data) // batch

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16):
            cross_entropy(model(attacked(model, x, y) if steps else x), y).backward()
        optimizer.step()

    replay = captured_call(step) if x.is_cuda else step
    return wall(lambda: [replay() for _ in range(count)])[0]


def robustness(model: nn.Module, data: "fa.data.ImageSet", batch: int) -> float:
    """Train for an epoch by the package's loop. Returns the mean loss."""
    optimizer = _optimizer(model)
    total = 0.0
    for ids in torch.randperm(len(data)).split(batch):
        x, y = data.x[ids].float() / 255, data.y[ids]
        loss = cross_entropy(model(strongest(model, x, y)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return total / len(data)
