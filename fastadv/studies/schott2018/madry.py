"""The adversarially trained net of the study: PGD training on MNIST at L-infinity 0.3 (Madry et al. 2018).

At that radius training from random weights stays at chance. The radius is therefore raised in three runs,
each of which starts from the weights of the one before. They take about 7 minutes of one core.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastadv as fa
from fastadv.studies.study import Watch, unwatched

STEPS, BATCH_SIZE, LEARNING_RATE = 7, 64, 0.002
CHECKPOINT_EVERY = 200  # steps, about 15 seconds
SECONDS = 450
"""What the whole training takes on one core."""


@dataclass(frozen=True)
class Stage:
    """One run of the training."""

    name: str
    radius: float
    step_size: float
    epochs: int
    schedule: str


RAMP = (
    Stage("ramp1", 0.1, 0.033, 1, "constant"),
    Stage("ramp2", 0.2, 0.066, 1, "constant"),
    Stage("robust", 0.3, 0.1, 8, "cosine"),
)


def train(
    train_set: Any, folder: Path, watch: Watch, seed: int = 0, device: torch.device | None = None
) -> nn.Module:
    """Return the trained net. Each run has a folder of its own in `folder`, and is not done again there."""
    model = fa.models.WongCNN(tuple(train_set.shape), train_set.num_classes, seed=seed)
    for _ in climb(model, train_set, RAMP, folder, watch, steps=STEPS, seed=seed, device=device):
        pass
    return model.eval()


def climb(
    model: nn.Module,
    train_set: Any,
    ramp: Sequence[Stage],
    folder: Path,
    watch: Watch = unwatched,
    *,
    steps: int,
    seed: int = 0,
    device: torch.device | None = None,
) -> Iterator[fa.train.EpochReport]:
    """Train the model in place, stage after stage, by PGD of so many steps; a report after every epoch.

    Each stage is a run in a folder of its own in `folder`. One that was stopped goes on.
    """
    for stage in ramp:
        yield from fa.train.epochs(
            model, train_set,
            fa.train.PGDTraining(fa.Linf(stage.radius), steps=steps, step_size=stage.step_size),
            epochs=stage.epochs, run_dir=folder / stage.name, resume=True, optimizer="adam",
            learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, seed=seed, device=device,
            optimization=fa.train.Optimization(weight_decay=0.0, schedule=stage.schedule),
            execution=fa.train.Execution(checkpoint_every=CHECKPOINT_EVERY),
            progress=partial(watch, f"training the Madry net, {stage.name}"),
        )  # fmt: skip
