"""Adversarial weight perturbation, around any recipe that is a loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.train.recipes._common import check_positive, put_back
from fastadv.train.recipes.base import (
    Crafted,
    OwnStep,
    Recipe,
    Step,
    check_images,
    is_loss,
    labels_or_outputs,
    owns_step,
)

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

    recipe: Recipe
    gamma: float = 0.01

    def __post_init__(self) -> None:
        if owns_step(self.recipe) or not is_loss(self.recipe):
            raise InputError(
                f"recipe: expected one that is a loss, for AWP to wrap, got {type(self.recipe).__name__}; "
                "for example fa.train.PGDTraining"
            )
        check_positive("gamma", self.gamma)

    def step(self, at: Step) -> Tensor:
        loss_at = self._made(at)
        ascent = self._ascent(at, loss_at)
        with put_back(ascent):
            with torch.no_grad():
                for weight, way in ascent.items():
                    weight.add_(way)
            loss = _taken(at, loss_at)
            at.backward(loss)
        at.descend()
        return loss.detach()

    def _made(self, at: Step) -> Callable[[], Tensor]:
        """Craft examples now, and return the recipe's loss on them as a function of the weights."""
        recipe = self.recipe
        if not isinstance(recipe, Crafted):
            return lambda: recipe(at.model, at.x, at.y, ids=at.ids, seed=at.seed)
        check_images(recipe, at.model, at.x)
        with at.autocast():
            x_adv = recipe.craft(at.model, at.x, at.y, ids=at.ids, seed=at.seed)
        y = labels_or_outputs(getattr(recipe, "criterion", None), at.model, at.x, at.y)
        return lambda: recipe._loss(at.model, at.x, y, x_adv, at.ids, at.seed)

    def _ascent(self, at: Step, loss_at: Callable[[], Tensor]) -> dict[nn.Parameter, Tensor]:
        """Compute v for each weight."""
        weights = [weight for weight in at.model.parameters() if weight.requires_grad and weight.ndim > 1]
        statistics = [buffer.clone() for buffer in at.model.buffers()]
        gradients = at.gradients(_taken(at, loss_at), weights)
        with torch.no_grad():
            for buffer, before in zip(at.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
            return {
                weight: gradient * (self.gamma * weight.norm() / gradient.norm().clamp(min=TINY))
                for weight, gradient in zip(weights, gradients, strict=True)
                if gradient is not None
            }


def _taken(at: Step, loss_at: Callable[[], Tensor]) -> Tensor:
    with at.autocast():
        return loss_at()
