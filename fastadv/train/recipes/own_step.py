"""Recipes that own their step: weights that are perturbed (AWP), and free adversarial training."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastadv._checks import check_count
from fastadv.errors import InputError, NoGradientError
from fastadv.losses import Loss
from fastadv.threat import Threat
from fastadv.train.recipes import _common, base
from fastadv.train.recipes.base import OwnStep, Recipe, Step

TINY = 1e-30  # keeps the division finite where the gradient is zero


@dataclass(frozen=True)
class AWP(OwnStep):
    """Train on the loss of a recipe at weights that first moved against it (adversarial weight perturbation).

    The weights are w + v, where `v = gamma · |w| · g / |g|` layer by layer. g is the gradient of the recipe's
    loss at w, on the examples that are crafted at w; the gradient at w + v, on the same examples, then moves
    w. Only weights of two dimensions or more are perturbed. Statistics of BatchNorm are those of the pass at
    w + v. A recipe without a `craft` of its own runs twice, with the same ids and seed. Weight decay acts at
    w; the authors take the optimizer's step at w + v, which differs by a share of learning rate · decay ·
    gamma of `|w|`.

    Args:
        recipe: the recipe whose loss is taken.
        gamma: the size of the perturbation relative to the weights, > 0; 0.01 as in the paper, which has
            0.005 around TRADES.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", limit=64)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> recipe = fa.train.AWP(fa.train.TRADES(fa.Linf(0.1), steps=2), gamma=0.005)
        >>> len(fa.train.fit(model, digits, recipe, epochs=2))
        2

    Source:
        Wu, Xia, Wang 2020 (arXiv 2004.05884), equations 8 and 9 and algorithm 1.
    """

    recipe: Recipe | Callable[..., Tensor]
    gamma: float = 0.01

    def __post_init__(self) -> None:
        if base.owns_step(self.recipe) or not base.is_loss(self.recipe):
            raise InputError(
                f"recipe: expected one that is a loss, for AWP to wrap, got {type(self.recipe).__name__}; "
                "for example fa.train.PGDTraining"
            )
        _common.check_positive("gamma", self.gamma)

    def step(self, at: Step) -> Tensor:
        with at.autocast():
            loss_of_weights = base.loss_of(self.recipe)(at.model, at.x, at.y, ids=at.ids, seed=at.seed)

        def loss_at() -> Tensor:
            with at.autocast():
                return loss_of_weights()

        ascent = self._ascent(at, loss_at)
        with _common.put_back(ascent):
            with torch.no_grad():
                for weight, way in ascent.items():
                    weight.add_(way)
            loss = loss_at()
            at.backward(loss)
        at.descend()
        return loss.detach()

    def _ascent(self, at: Step, loss_at: Callable[[], Tensor]) -> dict[nn.Parameter, Tensor]:
        """Compute v for each weight."""
        weights = [weight for weight in at.model.parameters() if weight.requires_grad and weight.ndim > 1]
        statistics = [buffer.clone() for buffer in at.model.buffers()]
        gradients = at.gradients(loss_at(), weights)
        with torch.no_grad():
            for buffer, before in zip(at.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
            return {
                weight: gradient * (self.gamma * weight.norm() / gradient.norm().clamp(min=TINY))
                for weight, gradient in zip(weights, gradients, strict=True)
                if gradient is not None
            }


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
        loss: J, as in `Standard`.

    Source:
        Shafahi et al. 2019 (arXiv 1904.12843), algorithm 1.
    """

    threat: Threat
    replays: int = 4
    step_size: float | None = None
    label_smoothing: float = 0.0
    loss: Loss = "ce"

    places = ("perturbation",)

    def __post_init__(self) -> None:
        _common.check_finite(self.threat, "a perturbation that is carried on")
        check_count("replays", self.replays, 1)
        _common.check_objective(self.label_smoothing, self.loss)
        _common.step_length(self.threat, self.step_size)

    def step(self, at: Step) -> Tensor:
        _, y = base.checked(self, at.model, at.x, at.y)
        low, high = self.threat.box
        # the next batch has other pixels: only the ball may limit what is carried on
        ball = replace(self.threat, box=(low - high, high - low))
        step_size = _common.step_length(self.threat, self.step_size)
        carried = at.places.setdefault("perturbation", torch.zeros_like(at.x))
        moved, losses = carried[: len(at.x)], []
        for _ in range(self.replays):
            x_adv = (at.x + moved).clamp(low, high).requires_grad_()
            with at.autocast():
                logits = _common.logits_at(at.model, x_adv, y)
                loss = _common.mean_loss(logits, y, self.label_smoothing, self.loss)
            at.backward(loss)
            at.descend()
            if x_adv.grad is None:
                raise NoGradientError(
                    "model: expected logits that depend on x differentiably, got one that cuts the graph; "
                    "remove its no_grad, detach or integer step"
                )
            moved = ball.step(moved, x_adv.grad, torch.zeros_like(x_adv), step_size)
            losses.append(loss.detach())
        # a process without a sample in a smaller last batch passes one that does not count
        if at.share.count:
            carried[: len(at.x)] = moved
        return torch.stack(losses).mean()
