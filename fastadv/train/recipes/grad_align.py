"""GradAlign: input gradients that point the same way within the ball, around a loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.train.recipes._common import check_finite, check_loss_recipe, check_positive, running_statistics
from fastadv.train.recipes.base import Recipe, innermost, seed_of


@dataclass(frozen=True)
class GradAlign:
    """The loss of `recipe` + weight · the mean of 1 - cos(∇J(x), ∇J(x + noise)), J the cross-entropy.

    The noise is drawn from the recipe's ball, keyed by (seed, id). Single-step training overfits to its own
    attack where the two gradients differ; around FGSMTraining(threat, weight=0) this is the paper's recipe.
    As in the authors' code the gradient at x is held fixed, and the other is differentiated by the weights.
    Both are taken with the running statistics of BatchNorm, as by an attack, so that samples do not depend on
    each other; the authors take those of the batch. A sample without a gradient counts as aligned.

    Args:
        recipe: the recipe whose loss is taken, with a threat of one finite radius.
        weight: of the alignment, > 0; 0.2 is that of the FastAT benchmark for CIFAR-10 at 8 / 255.

    Source:
        Andriushchenko, Flammarion 2020 (arXiv 2007.02617), equation 4.
    """

    recipe: Recipe
    weight: float = 0.2

    def __post_init__(self) -> None:
        check_loss_recipe(self.recipe, "GradAlign")
        check_positive("weight", self.weight)
        check_finite(self._threat, "noise in the ball")

    @property
    def _threat(self) -> Threat:
        threat = getattr(innermost(self.recipe), "threat", None)
        if not isinstance(threat, Threat):
            raise InputError(
                f"recipe: expected one with a threat, got {self.recipe!r}; write "
                "GradAlign(FGSMTraining(threat, weight=0))"
            )
        return threat

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        seed = seed_of(seed, ids)
        loss = self.recipe(model, x, y, ids=ids, seed=seed)
        noisy = self._threat.random_start(x, seed=seed, ids=ids)
        with torch.enable_grad(), running_statistics(model):
            fixed = _gradient(model, x, y, graph=False)
            moving = _gradient(model, noisy, y, graph=True)
        lengths = fixed.norm(dim=1) * moving.norm(dim=1)
        known = lengths > 0
        cosine = (fixed * moving).sum(1) / lengths.where(known, 1.0)
        apart: Tensor = (1 - cosine).where(known, 0.0).mean()
        return loss + self.weight * apart


def _gradient(model: nn.Module, x: Tensor, y: Tensor, graph: bool) -> Tensor:
    """Compute the gradient of the cross-entropy by x, [B, D]; with a graph by the weights if asked for."""
    leaf = x.detach().requires_grad_()
    loss = cross_entropy(model(leaf), y)
    gradient: Tensor = torch.autograd.grad(loss, leaf, create_graph=graph)[0].flatten(1)
    return gradient
