"""Nets in wrappers, in other formats, and with habits of their own."""

from typing import Any

import torch
from torch import Tensor, nn

from ..net import block, by_forward, head, net


def plain() -> nn.Sequential:
    return nn.Sequential(block(), block(16), head())


@net(batches=(3, 16, 1))
def part_compiled() -> nn.Module:
    model = plain()
    model[1] = torch.compile(model[1], backend="eager")
    return model


@net()
def data_parallel() -> nn.Module:
    return nn.DataParallel(plain())


@by_forward(lambda: {"net": plain()}, coarse=True)
def autocast_inside(self: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = self.net(x)
    return out.float()


@by_forward(lambda: {"first": block(), "last": block(16).bfloat16(), "head": head()}, coarse=True)
def narrow_part(self: Any, x: Tensor) -> Any:
    return self.head(self.last(self.first(x).bfloat16()).float())


@by_forward(lambda: {"net": plain(), "calls": torch.zeros(()), "seen": torch.zeros(())}, writes=True)
def buffers_written(self: Any, x: Tensor) -> Any:
    self.calls += 1
    self.seen.mul_(0.9).add_(0.1 * x.detach().mean())
    return self.net(x)


@net()
def tied_parts() -> nn.Module:
    shared = block(16)
    model = nn.Sequential(block(), shared, nn.Sequential(shared, nn.Dropout(0.5)), head())
    model[3][1].weight = nn.Parameter(model[3][1].weight.detach().clone())
    return model


@by_forward(lambda: {"first": block(), "last": block(16), "early": head(), "late": head()})
def early_exit(self: Any, x: Tensor) -> Any:
    """The second half of the net is for those samples alone that the first is not sure of."""
    out = self.first(x)
    logits = self.early(out)
    unsure = logits.softmax(1).amax(1) < 0.5
    if unsure.any():
        logits = logits.index_put((unsure,), self.late(self.last(out[unsure])))
    return logits
