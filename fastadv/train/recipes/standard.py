"""Training on the images as they are."""

from dataclasses import dataclass

from torch import Tensor, nn

from fastadv.train.recipes._common import check_objective, logits_at, mean_loss


@dataclass(frozen=True)
class Standard:
    """The mean cross-entropy on the images as they are.

    Args:
        label_smoothing: the share of each label that is spread over all classes, in [0, 1).
        loss: "ce", the cross-entropy of the softmax, or "bce", the sum over classes of those of a sigmoid
            each, for models that give each class a probability of its own (RBF networks).
    """

    label_smoothing: float = 0.0
    loss: str = "ce"

    def __post_init__(self) -> None:
        check_objective(self.label_smoothing, self.loss)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        return mean_loss(logits_at(model, x, y), y, self.label_smoothing, self.loss)
