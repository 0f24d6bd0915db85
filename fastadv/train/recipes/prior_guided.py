"""Prior-guided training: one step from where the sample's earlier epochs led."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fastadv import rng
from fastadv._checks import check_count, check_number
from fastadv.errors import InputError
from fastadv.threat import Linf
from fastadv.train._samples import SampleRows
from fastadv.train.recipes._common import check_finite, check_objective, drawn, mean_loss, step_length
from fastadv.train.recipes.base import BatchPart, OwnStep, Step


@dataclass(frozen=True)
class PriorGuidedTraining(OwnStep):
    """FGSM-PGI with momentum (FGSM-MEP): J(x_adv, y) + consistency · mean of (f(x_adv) - f(start))².

    f are the logits, x_adv is one step of ascent from `start`, and that is x plus the perturbation kept for
    this sample. In an epoch that begins a cycle of `reset` epochs it is ±radius at random, keyed by (seed,
    id). What is kept for the next epoch is a step from `start` along m = momentum · m + gradient; gradients
    are scaled to a mean magnitude of 1 in each sample (the authors: in the batch).

    As in the authors' code, the pass at `start` is one in the network's own mode, used for the input gradient
    and for the loss, and what is kept is not moved along with an augmentation. The training set's
    perturbations and m are held in half precision on the model's device, and are part of the checkpoint.
    Where they are more than 64 MiB, checkpoints are written only as often as that takes 2% of the time, and
    at the end: a run that is killed resumes, bit for bit, from the last one.

    Args:
        threat: Linf with one finite radius, in input units.
        step_size: in input units; None is the radius.
        momentum: in [0, 1]; 0 is FGSM-EP, which keeps x_adv itself.
        consistency: weight of the second term, >= 0.
        reset: epochs of a cycle, >= 1.
        label_smoothing: that of J, in [0, 1).

    Source:
        Jia et al. 2022 (arXiv 2207.08859), section 3 and algorithm 3.
    """

    threat: Linf
    step_size: float | None = None
    momentum: float = 0.3
    consistency: float = 10.0
    reset: int = 40
    label_smoothing: float = 0.0

    samples = ("perturbation", "momentum")

    def __post_init__(self) -> None:
        check_finite(self.threat, "a perturbation that is kept")
        if not isinstance(self.threat, Linf):
            raise InputError(f"threat: expected fa.Linf, got {type(self.threat).__name__}; use PGDTraining")
        step_length(self.threat, self.step_size)
        check_number("momentum", self.momentum, 0, 1)
        check_number("consistency", self.consistency, 0)
        check_count("reset", self.reset, 1)
        check_objective(self.label_smoothing)

    def step(self, at: Step) -> list[Tensor]:
        losses, kept, summed = zip(*at.each(lambda part: self._pass(part, at.samples)), strict=True)
        at.backward(losses)
        at.descend()
        count = len(at.ids) if at.share.count else 0  # a row that does not count is not kept
        rows = {"perturbation": at.share.joined(kept), "momentum": at.share.joined(summed)}
        at.samples.write(at.epoch, at.ids[:count], {name: own[:count].half() for name, own in rows.items()})
        return list(losses)

    def _pass(self, part: BatchPart, samples: SampleRows) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss; the perturbation and the sum of gradients to keep."""
        step_size = step_length(self.threat, self.step_size)
        start, summed = self._prior(part, samples)
        with part.autocast():
            before = part.model(start.requires_grad_())
            first = mean_loss(before, part.y, self.label_smoothing)
        (gradient,) = torch.autograd.grad(part.share.weighted(first), start, retain_graph=True)
        start = start.detach()
        x_adv = self.threat.step(start, gradient, part.x, step_size)
        with part.autocast():
            after = part.model(x_adv)
            loss = mean_loss(after, part.y, self.label_smoothing)
            loss = loss + self.consistency * mse_loss(after.to(first), before.to(first))
        summed = self.momentum * summed + gradient / _size(gradient)
        return loss, self.threat.step(start, summed, part.x, step_size) - part.x, summed

    def _prior(self, part: BatchPart, samples: SampleRows) -> tuple[Tensor, Tensor]:
        """Return where these samples start, and the sum of their earlier gradients."""
        if (part.epoch - 1) % self.reset == 0:
            draws = drawn(rng.uniform, part.x, part.ids, part.seed, "prior")
            away = float(self.threat.radius) * ((draws >= 0.5).to(part.x) * 2 - 1)
            summed = torch.zeros_like(part.x)
        else:
            held = samples.read(part.epoch, part.ids)
            away, summed = (held[name].to(part.x) for name in self.samples)
        # half precision may have rounded out of the ball
        return self.threat.project(part.x + away, part.x), summed


def _size(gradient: Tensor) -> Tensor:
    """Return the mean magnitude of each sample's gradient, [B, 1, ...]."""
    mean = gradient.abs().flatten(1).mean(1).view(-1, *[1] * (gradient.ndim - 1))
    return mean.clamp(min=torch.finfo(gradient.dtype).tiny)
