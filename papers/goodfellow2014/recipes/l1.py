"""L1 weight decay on the first layer: a control of adversarial training."""

from dataclasses import dataclass

from torch import Tensor, nn

import fastadv as fa
from papers.goodfellow2014.recipes.losses import check_positive


@dataclass(frozen=True)
class WeightDecayL1:
    """The loss of `recipe` + coefficient · the sum of `|w|` over the weights of the first layer (section 5).

    The first layer is the model's first parameter with two dimensions or more. For logistic regression, FGSM
    training subtracts radius · the same sum inside the loss, where it fades once the margin is large; here it
    never fades. In the paper 0.0025 was already too much for a maxout network.
    """

    coefficient: float
    recipe: fa.train.Recipe = fa.train.Standard()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        check_positive("coefficient", self.coefficient)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        first = next(weight for weight in model.parameters() if weight.ndim > 1)
        return self.recipe(model, x, y, ids=ids, seed=seed) + self.coefficient * first.abs().sum()
