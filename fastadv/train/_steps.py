"""The steps of an epoch: batch by batch, what the recipe does with each."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv import rng
from fastadv.data import batches
from fastadv.train._losses import Losses, NotFiniteError
from fastadv.train._sets import check_labels
from fastadv.train.augment import Augment
from fastadv.train.recipes import OwnStep, Recipe, Step
from fastadv.train.recipes.base import take_step


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Key torch's random numbers, such as dropout's, by `seed`, and restore the caller's state afterwards."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # not torch.manual_seed, which would also seed the devices that are not forked
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@dataclass
class Steps:
    """What the batches of a run pass through, and what they change."""

    model: nn.Module
    train_set: Dataset[Any]
    recipe: Recipe | OwnStep
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    augment: Augment | None
    classes: int
    batch_size: int
    precision: str
    seed: int
    losses: Losses
    state: dict[str, Tensor] = field(default_factory=dict)  # what the recipe keeps between batches
    learning_rate: float = 0.0  # of the last step

    def epoch(self, epoch: int, done: int) -> Iterator[int]:
        """Train the batches after the first `done` of an epoch; yields how many are done after each.

        FloatingPointError for a loss that is not finite, on a GPU some steps later.
        """
        derive = partial(rng.derive, self.seed)
        order = rng.permutation(len(self.train_set), derive("order", epoch))  # type: ignore[arg-type]
        left = order[done * self.batch_size :]
        try:
            for step, (x, y, ids) in enumerate(batches(self.train_set, self.batch_size, order=left), done):
                at = self._at(epoch, step, x, y, ids)
                self.learning_rate = self.optimizer.param_groups[0]["lr"]
                with _seeded(derive("torch", epoch, step), at.x.device):
                    take_step(self.recipe, at)
                self.scheduler.step()
                yield step + 1
            self.losses.check()
        except NotFiniteError as error:
            ids = order[error.step * self.batch_size :][: self.batch_size]
            raise FloatingPointError(
                f"training: expected a finite loss, got {error.loss} in epoch {epoch} at step {error.step} "
                f"(samples {_listing(ids.tolist())}); "
                f"lower the learning rate (now {self.learning_rate:g}) or check the data"
            ) from error

    def _at(self, epoch: int, step: int, x: Tensor, y: Tensor, ids: Tensor) -> Step:
        # labels on a GPU belong to an ImageSet and are checked; reading them again would wait for it
        if not y.is_cuda:
            check_labels(y, self.classes)
        if self.augment is not None:
            with _seeded(rng.derive(self.seed, "torch augment", epoch, step), x.device):
                x = self.augment(x, ids=ids, seed=rng.derive(self.seed, "augment", epoch))
        device, size = self.losses.values.device, len(self.train_set)  # type: ignore[arg-type]
        x, y, ids = (tensor.to(device, non_blocking=True) for tensor in (x, y, ids))
        return Step(
            model=self.model,
            optimizer=self.optimizer,
            x=x,
            y=y,
            ids=ids,
            seed=rng.derive(self.seed, "attack", epoch),
            epoch=epoch,
            size=size,
            check=partial(self.losses.take, step, share=len(y) / size),
            precision=self.precision,
            state=self.state,
        )


def _listing(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return shown if len(ids) <= 8 else f"{shown} and {len(ids) - 8} more"
