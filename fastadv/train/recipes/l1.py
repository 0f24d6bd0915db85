"""L1 weight decay on the first layer: a control of adversarial training."""

from dataclasses import dataclass

from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.train.recipes._common import check_loss_recipe, check_positive
from fastadv.train.recipes.base import Recipe, seed_of
from fastadv.train.recipes.standard import Standard


@dataclass(frozen=True)
class WeightDecayL1:
    """The loss of `recipe` + coefficient · the sum of `|w|` over the weights of the first layer.

    The first layer is the model's first parameter with two dimensions or more. For logistic regression, FGSM
    training subtracts radius · the same sum inside the loss, where it fades once the margin is large; here it
    never fades.

    Args:
        coefficient: > 0. In the paper 0.0025 was already too much for a maxout network.
        recipe: the recipe whose loss is taken.

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 5.
    """

    coefficient: float
    recipe: Recipe = Standard()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        check_positive("coefficient", self.coefficient)
        check_loss_recipe(self.recipe, "WeightDecayL1")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        first = next((weight for weight in model.parameters() if weight.ndim > 1), None)
        if first is None:
            raise InputError("model: expected a layer with weights of two dimensions or more, got none")
        loss = self.recipe(model, x, y, ids=ids, seed=seed_of(seed, ids))
        return loss + self.coefficient * first.abs().sum()
