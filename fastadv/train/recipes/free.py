"""Free adversarial training: one backward pass for the weights and for the perturbation."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv.errors import NoGradientError
from fastadv.threat import Threat
from fastadv.train.recipes._common import check_finite, check_objective, logits_at, mean_loss, step_length
from fastadv.train.recipes.base import OwnStep, Step, check_images


@dataclass(frozen=True)
class FreeTraining(OwnStep):
    """Train with `replays` steps on each batch, whose backward passes also move the perturbation.

    The perturbation d begins at 0 and is kept from replay to replay and from batch to batch, place by place;
    a smaller last batch uses and changes its first rows. A replay takes the gradients of J(x + d, y), x + d
    clamped to the box, for weights and input at once, in the network's own mode. Then the weights descend and
    d ascends by step_size, kept in the ball. An epoch costs as much as `replays` epochs of standard training,
    so the paper divides their number by it. The learning rate changes once a batch. The reported loss is the
    mean over the replays.

    Args:
        threat: Linf, L2, L1 or L0 with one finite radius, in input units.
        replays: steps on each batch, >= 1.
        step_size: of d, in input units; None is the radius.
        label_smoothing: that of J, in [0, 1).

    Source:
        Shafahi et al. 2019 (arXiv 1904.12843), algorithm 1.
    """

    threat: Threat
    replays: int = 4
    step_size: float | None = None
    label_smoothing: float = 0.0

    places = ("perturbation",)

    def __post_init__(self) -> None:
        check_finite(self.threat, "a perturbation that is carried on")
        check_count("replays", self.replays, 1)
        check_objective(self.label_smoothing)
        step_length(self.threat, self.step_size)

    def step(self, at: Step) -> Tensor:
        check_images(self, at.model, at.x)
        low, high = self.threat.box
        # the next batch has other pixels: only the ball may limit what is carried on
        ball = replace(self.threat, box=(low - high, high - low))
        step_size = step_length(self.threat, self.step_size)
        if "perturbation" not in at.places:
            at.places["perturbation"] = torch.zeros_like(at.x)
        carried = at.places["perturbation"]
        moved, losses = carried[: len(at.x)], []
        for _ in range(self.replays):
            x_adv = (at.x + moved).clamp(low, high).requires_grad_()
            with at.autocast():
                loss = mean_loss(logits_at(at.model, x_adv, at.y), at.y, self.label_smoothing)
            at.backward(loss)
            at.descend()
            moved = ball.step(moved, _gradient(x_adv), torch.zeros_like(x_adv), step_size)
            losses.append(loss.detach())
        # a process without a sample in a smaller last batch passes one that does not count
        if at.share.count:
            carried[: len(at.x)] = moved
        return torch.stack(losses).mean()


def _gradient(x_adv: Tensor) -> Tensor:
    if x_adv.grad is None:
        raise NoGradientError(
            "model: expected logits that depend on x differentiably, got one that cuts the graph; "
            "remove its no_grad, detach or integer step"
        )
    return x_adv.grad
