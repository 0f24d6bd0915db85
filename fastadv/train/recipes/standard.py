"""Training on the images as they are."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.train.recipes._common import check_smoothing


@dataclass(frozen=True)
class Standard:
    """The mean cross-entropy on the images as they are.

    label_smoothing: the share of each label that is spread over all classes, in [0, 1); InputError otherwise.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        return cross_entropy(model(x), y, label_smoothing=self.label_smoothing)
