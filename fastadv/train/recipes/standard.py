"""Training on the images as they are."""

from dataclasses import dataclass

from torch import Tensor, nn

from fastadv.attacks.core.criterion import Criterion
from fastadv.train.recipes._common import check_criterion, check_objective, mean_losses
from fastadv.train.recipes.base import check_images, labels_or_outputs


@dataclass(frozen=True)
class Standard:
    """The mean cross-entropy on the images as they are.

    Args:
        label_smoothing: the share of each label that is spread over all classes, in [0, 1).
        loss: "ce", the cross-entropy of the softmax, or "bce", the sum over classes of those of a sigmoid
            each, for models that give each class a probability of its own (RBF networks).
        criterion: of a model of other outputs than classes: `fa.attacks.Signs()`, `Share(least)` or
            `Beyond(distance)`, whose `objective` takes the place of the cross-entropy; None is classes.
    """

    label_smoothing: float = 0.0
    loss: str = "ce"
    criterion: Criterion | None = None

    def __post_init__(self) -> None:
        check_objective(self.label_smoothing, self.loss)
        check_criterion(self.criterion, self.label_smoothing, self.loss)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        x = check_images(self, model, x)
        if self.criterion is not None:
            y = labels_or_outputs(self.criterion, model, x, y)
        (loss,) = mean_losses(model, [x], y, self.label_smoothing, self.loss, self.criterion)
        return loss
