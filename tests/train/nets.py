"""A tiny net with everything that a resume must bring back (BatchNorm, dropout), a tiny data set, and a run on them."""

import sys
from pathlib import Path

import torch
from torch import nn

from fastadv.data import ImageSet
from fastadv.threat import Linf
from fastadv.train import EpochReport, PGDTraining, fit


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 36, 3)
        )  # fmt: skip


def images(n: int = 50, seed: int = 0) -> ImageSet:
    """Three classes: a bright band at the top, in the middle or at the bottom, in noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 8, 8, generator=generator) * 0.5
    for i, label in enumerate(y.tolist()):
        x[i, :, 3 * label : 3 * label + 2] += 0.5
    return ImageSet(x, y, ("top", "middle", "bottom"), "bands")


def run(
    folder: Path | None, *, resume: bool = False, epochs: int = 4, **options: object
) -> tuple[nn.Module, list[EpochReport]]:
    model = net()
    settings = {
        "recipe": PGDTraining(Linf(0.1), steps=2),
        "batch_size": 8,
        "augment": "shift",
        "schedule": "cosine",
        "checkpoint_every": None if folder is None else 2,
    } | options
    return model, list(fit(model, images(), epochs=epochs, run_dir=folder, resume=resume, **settings))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), resume=True, epochs=int(sys.argv[2]))
