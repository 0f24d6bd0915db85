"""Training that also denies noise, around a loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import softplus

import fastadv as fa
from papers.goodfellow2014.recipes.losses import check_positive, drawn

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class RubbishTraining:
    """The loss of `recipe` + weight · a loss that penalizes confident predictions on noise (appendix A).

    The noise is N(0, 1) in every pixel, as many images as the batch has, fresh in each epoch and keyed by
    (seed, id). In BatchNorm, noise is normalized by the running statistics, as it will be in tests, and does
    not enter them. `loss` is what a model should answer: "ce", that all classes are equally likely (outlier
    exposure, Hendrycks et al. 2019); "bce", that it is none of them, for models that give each class a
    probability of its own.
    """

    recipe: fa.train.Recipe = fa.train.Standard()  # noqa: RUF009 - frozen
    weight: float = 1.0
    loss: str = "ce"

    def __post_init__(self) -> None:
        check_positive("weight", self.weight)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        # first, because it moves the running statistics, which the noise's backward pass needs as they are
        loss = self.recipe(model, x, y, ids=ids, seed=seed)
        with running_statistics(model):
            logits = model(drawn(fa.rng.normal, x, ids, seed, "rubbish"))
        denied = softplus(logits).sum(1) if self.loss == "bce" else -logits.log_softmax(1).mean(1)
        return loss + self.weight * denied.mean()


@contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Put layers that normalize by statistics of the batch in eval mode, inside."""
    norms = [part for part in model.modules() if isinstance(part, BATCH_NORM) and part.training]
    for part in norms:
        part.eval()
    try:
        yield
    finally:
        for part in norms:
            part.train()
