"""The fastest PGD by hand on a GPU: bfloat16, BatchNorm folded, channels-last, compiled and captured."""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

import fastadv.ops as ops
from bench import pgd
from bench.pgd import Call, Problem


class Half(nn.Module):
    """A bfloat16 copy of a net without BatchNorm, for float32 images and logits."""

    def __init__(self, net: nn.Module, compiled: bool) -> None:
        super().__init__()
        net = copy.deepcopy(net).requires_grad_(False)
        with suppress(Exception):  # what torch.fx cannot trace keeps its layers
            net = fuse(net)
        net = net.to(torch.bfloat16)
        self.convolves = any(isinstance(part, nn.Conv2d) for part in net.modules())
        if self.convolves:
            net = net.to(memory_format=torch.channels_last)
        self.net: Callable[[Tensor], Tensor] = torch.compile(net) if compiled else net

    def forward(self, x: Tensor) -> Tensor:
        last = torch.channels_last if self.convolves else torch.preserve_format
        return self.net(x.to(torch.bfloat16, memory_format=last)).float()


def half(given: Problem, compiled: bool = False) -> Call:
    return partial(pgd.plain, replace(given, model=Half(given.model, compiled)))


def captured(given: Problem, compiled: bool = False) -> Call:
    """Run the same from one CUDA graph of a step; without a GPU, step by step."""
    step = replace(given, model=Half(given.model, compiled), steps=1)
    x_adv = given.x.clone()

    def move() -> None:
        x_adv.copy_(pgd.plain(step, x_adv))

    replay = captured_call(move) if given.x.is_cuda else move

    def run() -> Tensor:
        x_adv.copy_(given.x)
        for _ in range(given.steps):
            replay()
        return x_adv

    return run


def captured_call(move: Callable[[], None]) -> Callable[[], None]:
    """Return what replays a call that always does the same, after three that warm up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            move()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        move()
    return graph.replay


RADIUS, STEP = 0.03, 0.01
# an L1 ball of the same radius would move a single coordinate
L1_RADIUS, L1_STEP, L1_QUANTILE = 12.0, 1.0, 0.99


def linf_eager(x_adv: Tensor, grad: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Take sign, multiply, add, maximum, minimum, clamp; the ball's edges are given."""
    return torch.minimum(torch.maximum(x_adv + STEP * grad.sign(), lower), upper).clamp(0, 1)


def row_norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(1e-12).reshape(-1, *[1] * (x.dim() - 1))


def l2_eager(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """Normalize, move, rescale into the ball, clamp into the box: no exact projection."""
    shift = x_adv + STEP * grad / row_norm(grad) - x
    return (x + shift * (RADIUS / row_norm(shift)).clamp_max(1.0)).clamp(0, 1)


def l1_eager(x_adv: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """Take the step of SLIDE (Tramer & Boneh 2019), project by sorting (Duchi et al. 2008), and clamp.

    The coordinates in the top percent of |grad| that the box lets move share the step equally. The projection
    is the exact one on the ball, but not on the ball inside the box.
    """
    rows = grad.flatten(1)
    at = x_adv.flatten(1)
    stuck = ((at >= 1) & (rows > 0)) | ((at <= 0) & (rows < 0))
    size = rows.abs().masked_fill(stuck, 0.0)
    chosen = size >= size.quantile(L1_QUANTILE, dim=1, keepdim=True)
    move = rows.sign() * (chosen & (size > 0))
    shift = at + L1_STEP * move / move.abs().sum(1, keepdim=True).clamp_min(1.0) - x.flatten(1)
    length = shift.abs()
    ordered = length.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - L1_RADIUS) / torch.arange(1, ordered.shape[1] + 1, device=x.device)
    count = (ordered > excess).sum(1, keepdim=True).clamp_min(1)
    threshold = excess.gather(1, count - 1).clamp_min(0.0)
    kept = shift.sign() * (length - threshold).clamp_min(0.0)
    return (x + kept.reshape(x.shape)).clamp(0, 1)


Step = Callable[..., Tensor]
# the eager step, the fused one, and their radius and step size
STEPS: dict[str, tuple[Step, Step, float, float]] = {
    "linf_step": (linf_eager, ops.linf_step_, RADIUS, STEP),
    "l2_step": (l2_eager, ops.l2_step_, RADIUS, STEP),
    "l1_step": (l1_eager, ops.l1_step_, L1_RADIUS, L1_STEP),
}
