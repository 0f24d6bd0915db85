"""A tiny net with all that a resume must bring back (BatchNorm, dropout), a tiny data set, and a run."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastadv.data import ImageSet
from fastadv.threat import Linf
from fastadv.train import Ending, EpochReport, Execution, Measuring, Optimization, PGDTraining, fit


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 3)
        )  # fmt: skip


class Viewed(nn.Module):
    """The same for RGB, of contiguous points, which subtracts a running mean that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 3))
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.embed(x)
        if self.training:
            self.mean.lerp_(z.detach().mean((0, 2, 3)).float(), 0.3)
        return self.head((z - self.mean[:, None, None]).relu().view(len(x), -1))


def viewed() -> Viewed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Viewed()


def noting(met: set[tuple[bool, torch.dtype]]) -> nn.Module:
    """Rows as they are; mode and dtype of each pass are noted, also of a copy."""

    class Noting(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            met.add((self.training, rows.dtype))
            return rows

    return Noting()


def images(n: int = 50, seed: int = 0) -> ImageSet:
    """Three classes, in noise: a bright band at the top, in the middle or at the bottom."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 8, 8, generator=generator) * 0.5
    for i, label in enumerate(y.tolist()):
        x[i, :, 3 * label : 3 * label + 2] += 0.5
    return ImageSet(x, y, ("top", "middle", "bottom"), "bands")


def grouped(**options: Any) -> dict[str, Any]:
    """The arguments of `fit` for these options, each within its option object."""
    groups = {}
    for group in (Optimization, Measuring, Ending, Execution):
        values = {field.name: options.pop(field.name) for field in fields(group) if field.name in options}
        groups |= {group.__name__.lower(): group(**values)} if values else {}
    return options | groups


def run(
    folder: Path | None, *, call: Callable[..., Any] = fit, epochs: int = 2, **options: object
) -> tuple[nn.Module, Any]:
    model = net()
    settings = {
        "recipe": PGDTraining(Linf(0.1), steps=2),
        "batch_size": 8,
        "augment": "shift",
        "schedule": "cosine",
        "checkpoint_every": None if folder is None else 2,
    } | options
    return model, call(model, images(), epochs=epochs, run_dir=folder, **grouped(**settings))


def stopped(at: int, call: Callable[..., object], *arguments: object, **options: object) -> None:
    """Train by this call, and stop after so many steps."""

    def progress(done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(*arguments, progress=progress, **options)


def assert_same(model: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def timeless(past: Iterable[EpochReport]) -> list[EpochReport]:
    return [replace(report, seconds=0.0) for report in past]
