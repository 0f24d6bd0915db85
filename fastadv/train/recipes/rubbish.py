"""Training that also denies noise, around a loss."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import softplus

from fastadv import rng
from fastadv.train.recipes._common import (
    check_loss_recipe,
    check_objective,
    check_positive,
    drawn,
    logits_at,
    running_statistics,
)
from fastadv.train.recipes.base import Recipe, check_images, seed_of
from fastadv.train.recipes.standard import Standard


@dataclass(frozen=True)
class RubbishTraining:
    """The loss of `recipe` + weight · a loss that penalizes confident predictions on noise.

    The noise is N(0, 1) in every pixel, as many images as the batch has, fresh in each epoch and keyed by
    (seed, id). In BatchNorm, noise is normalized by the running statistics, as it will be in tests, and does
    not enter them.

    Args:
        recipe: the recipe whose loss is taken.
        weight: of the loss on noise, > 0.
        loss: what a model should answer: "ce", that all classes are equally likely (the cross-entropy with
            the uniform distribution); "bce", that it is none of them, for models that give each class a
            probability of its own (the sigmoids of Goodfellow et al. 2014).

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), appendix A, which calls such images rubbish class
        examples; Hendrycks et al. 2019 (arXiv 1812.04606), outlier exposure, for "ce".
    """

    recipe: Recipe = Standard()  # noqa: RUF009 - frozen
    weight: float = 1.0
    loss: str = "ce"

    def __post_init__(self) -> None:
        check_loss_recipe(self.recipe, "RubbishTraining")
        check_positive("weight", self.weight)
        check_objective(0.0, self.loss)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        x = check_images(self, model, x)
        seed = seed_of(seed, ids)
        # first, because it moves the running statistics, which the noise's backward pass needs as they are
        loss = self.recipe(model, x, y, ids=ids, seed=seed)
        with running_statistics(model):
            logits = logits_at(model, drawn(rng.normal, x, ids, seed, "rubbish"), y)
        denied = softplus(logits).sum(1) if self.loss == "bce" else -logits.log_softmax(1).mean(1)
        return loss + self.weight * denied.mean()
