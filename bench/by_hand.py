"""The fastest PGD by hand on a GPU: bfloat16, BatchNorm folded, channels-last, compiled and captured."""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from bench import pgd
from bench.peers import Call
from bench.pgd import Problem


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
    """Run the loop of the papers on it."""
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
