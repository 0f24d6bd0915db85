"""The steps of an epoch: batch by batch, what the recipe does with each, and their losses."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv._torch import called_by, compiled_form, lerp_
from fastadv._waiting import waits
from fastadv.attacks.core.criterion import WRONG, Criterion
from fastadv.engine.precision import Precision
from fastadv.errors import InputError
from fastadv.runs import checkpoint, processes
from fastadv.train._captured import LEAST, Captured, can_follow, is_fixed, run
from fastadv.train._feed import CHECK_EVERY, Feed, check_classes
from fastadv.train._share import Share, mean
from fastadv.train.optim import DeviceRates, continue_schedule
from fastadv.train.options import Execution, Optimization
from fastadv.train.recipes import OwnStep, Recipe, Step
from fastadv.train.recipes._common import put_back
from fastadv.train.recipes._followers import Followers
from fastadv.train.recipes.base import is_missing, owns_step

logger = logging.getLogger("fastadv")


class MovingAverage:
    """average = d · average + (1 - d) · weights after every batch, for the weights that are trained."""

    # d is at most (1 + n) / (10 + n) after n batches: first weights fade soon; buffers are the model's own

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._trained = list(trained.values())
        with torch.inference_mode(False):
            self.weights = {
                name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
                for name, weight in trained.items()
            }

    def update(self, count: int) -> None:
        """Take in the weights after `count` batches."""
        averages = list(self.weights.values())
        with torch.no_grad():
            current = [w.to(a.dtype) for w, a in zip(self._trained, averages, strict=True)]
            lerp_(averages, current, 1 - min(self.decay, (1 + count) / (10 + count)))

    def restore(self, weights: dict[str, Tensor]) -> None:
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Put the averages into the model, inside."""
        with torch.inference_mode(False), put_back(self._trained):
            with torch.no_grad():
                for weight, average in zip(self._trained, self.weights.values(), strict=True):
                    weight.copy_(average)
            yield


@dataclass
class Steps:
    """What the batches of a run pass through, and what they change."""

    model: nn.Module
    feed: Feed
    recipe: Recipe | OwnStep
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    classes: int
    optimization: Optimization
    execution: Execution
    rates: DeviceRates | None = None  # of the optimizer, which then reads them on the device
    ramp: Sequence[Recipe | OwnStep] = ()  # the recipes of the first epochs
    # Tensors that the recipe keeps between batches, and those of this process's places in a batch
    state: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, Tensor] = field(default_factory=dict)
    learning_rate: float = 0.0  # of the last step
    criterion: Criterion = WRONG

    def __post_init__(self) -> None:
        decay = self.optimization.ema
        # A tensor made in the caller's inference mode could not be written outside it
        with torch.inference_mode(False):
            # Losses of the steps of an epoch, by their shares of the samples, over all processes
            self.losses = torch.zeros(self.feed.steps, dtype=torch.float64, device=self.feed.device)
        searched = cast(Precision, self.execution.precision)
        self.call = compiled_form(self.model) if self.execution.compile else None
        self.followers = Followers(searched, self.execution.cuda_graph, self.execution.compile)
        # Followers for batches that do not fill a step, as a compiler takes long for each size
        self.few_followers = self.followers if self.call is None else Followers(searched, False)
        self.refused = False
        self.average = None if decay is None else MovingAverage(self.model, decay)

    def epoch(self, epoch: int, done: int) -> Iterator[int]:
        """Train the batches after the first `done` of an epoch, and yield the number done after each."""
        self.number = epoch
        recipe = self.ramp[epoch - 1] if epoch <= len(self.ramp) else self.recipe
        plainly = partial(run, recipe, self.rates)
        captured = self._captured(recipe, self.feed.epoch_size // self.feed.batch_size - done)
        try:
            for step, (x, y, ids) in enumerate(self.feed.batches(epoch, done), done):
                at = self._at(epoch, step, x, y, ids)
                self.learning_rate = self.optimizer.param_groups[0]["lr"]
                if self.rates is not None:
                    self.rates.update()
                full = at.share.size == self.feed.batch_size
                take = captured.take if full and captured else plainly
                seed = rng.derive(self.feed.seed, "torch", epoch, step, *at.share.key)
                with self._around(at, seed, full):
                    take(at)
                self.scheduler.step()
                if self.average is not None:
                    self.average.update(self.scheduler.last_epoch)
                yield step + 1
            self.check()
        except ValueError as error:
            if "more than 1 value per channel" not in str(error) or at.share.size > 1:
                raise
            raise InputError(
                "batch_size: expected two images or more in each step, as BatchNorm needs in training, got 1 "
                f"in epoch {epoch} at step {step}; leave out the images that do not fill a step with "
                "optimization=Optimization(drop_last=True), or choose another batch_size"
            ) from error

    @contextmanager
    def _around(self, at: Step, seed: int, full: bool) -> Iterator[None]:
        """Set up a step, inside: random numbers, followers, compiled model."""
        rng.seed_all(seed, at.x.device)  # a run keeps the caller's generators
        followers = self.followers if full else self.few_followers
        with followers.in_use(), called_by(self.model, self.call if full else None):
            yield

    def _captured(self, recipe: Recipe | OwnStep, left: int) -> Captured | None:
        """Return what takes the full steps that are left of an epoch; None where they run as they are."""
        cuda_graph, captured = self.execution.cuda_graph, None
        if cuda_graph is not False and waits(self.feed.device) and left >= LEAST and not self.refused:
            why = self._why_not(recipe)
            if why is None:
                captured = Captured(partial(run, recipe, self.rates), self.followers, self._refuse)
            else:
                self._refuse(why)
        # a graph cannot be captured in another
        self.followers.replay(cuda_graph if captured is None else False)
        return captured

    def _why_not(self, recipe: Recipe | OwnStep) -> str | None:
        """Return why no step is captured; None where there is no reason."""
        reasons = {
            "the recipe has a step of its own": owns_step(recipe),
            "several processes share a step": self.feed.world > 1,
            "the optimizer is the caller's, or its momentum moves": self.rates is None,
            "the recipe or its loss is the caller's": not (self.execution.cuda_graph or is_fixed(recipe)),
            "the model has hooks, or holds what may change unseen": not can_follow(self.model),
        }
        return next((why for why, holds in reasons.items() if holds), None)

    def _refuse(self, why: str) -> None:
        """Say once why steps run as they are, and capture their searches alone."""
        self.refused = True
        self.followers.replay(self.execution.cuda_graph)
        logger.info("training: steps are not captured as CUDA graphs: %s", why)

    def kept(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds beside the model, of all processes, which call this together."""
        kept, share = {"losses": self.losses}, self.feed.share(0)
        kept |= {f"recipe/{name}": held for name, held in self.state.items()}
        kept |= {f"recipe/{name}": share.whole(rows) for name, rows in self.places.items()}
        if self.average is not None:
            kept |= {f"ema/{name}": weight for name, weight in self.average.weights.items()}
        return kept

    def restore(self, state: checkpoint.State) -> None:
        """Take what a checkpoint holds, in any number of processes."""
        checkpoint.restore(state, self.model, self.optimizer, self.scheduler)
        continue_schedule(self.scheduler)
        if self.rates is not None:
            self.rates.prepare()
        self.losses.copy_(state.tensors["losses"])
        share, names = self.feed.share(0), getattr(self.recipe, "places", ())
        for name, held in checkpoint.kept(state, "recipe", self.feed.device).items():
            if name in names:
                self.places[name] = share.part(held).clone()
            else:
                self.state[name] = held
        if self.average is not None:
            self.average.restore(checkpoint.kept(state, "ema", self.feed.device))

    def check(self) -> None:
        """Raise FloatingPointError for a loss, or for trained weights, that are not finite."""
        self._check_losses()
        trained = {id(weight) for group in self.optimizer.param_groups for weight in group["params"]}
        weights = [(name, w) for name, w in self.model.named_parameters() if id(w) in trained]
        bad = [name for name, weight in weights if not weight.isfinite().all()]
        if bad:
            raise FloatingPointError(
                f"training: expected finite weights, got NaN or infinity in {bad[0]} "
                f"and {len(bad) - 1} others while the losses were finite; "
                f"lower the learning rate (now {self.learning_rate:g}) or shorten gradients with clip_norm"
            )

    def _check_losses(self) -> None:
        bad = (~torch.isfinite(self.losses)).nonzero()
        if len(bad):
            step, size = int(bad[0]), self.feed.batch_size
            ids = self.feed.order(self.number)[step * size :][:size].tolist()
            more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
            raise FloatingPointError(
                f"training: expected a finite loss, got {float(self.losses[step])} in epoch {self.number} at "
                f"step {step} (samples {', '.join(map(str, ids[:8]))}{more}); "
                f"lower the learning rate (now {self.learning_rate:g}) or check the data"
            )

    def _take_loss(self, step: int, share: Share, loss: Tensor) -> None:
        """Record the loss of a step on `share`, and check the losses now and then."""
        weighted = mean(loss).detach().double() * (share.count / self.feed.epoch_size)
        self.losses[step] = processes.add_up(weighted)
        if not waits(self.feed.device) or (step + 1) % CHECK_EVERY == 0:
            self._check_losses()

    def _at(self, epoch: int, step: int, x: Tensor, y: Tensor, ids: Tensor) -> Step:
        if self.criterion.outputs == "classes":
            check_classes(y, self.classes)
        elif not is_missing(y):
            y = cast(Tensor, self.criterion.labels("train_set", y, len(y), y.device))
            self.criterion.check_labels("train_set", y, self.classes)
        share = self.feed.share(step)
        return Step(
            model=self.model, optimizer=self.optimizer, x=x, y=y.to(x.device, non_blocking=True), ids=ids,
            seed=rng.derive(self.feed.seed, "attack", epoch), epoch=epoch, index=step,
            check=partial(self._take_loss, step, share), share=share, precision=self.execution.precision,
            clip_norm=self.optimization.clip_norm, state=self.state, places=self.places,
        )  # fmt: skip
