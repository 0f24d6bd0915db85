"""A batch of samples with the verdict of the model on them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadv.attacks.core.classified import Classified

APART = 1e-3  # the difference of two passes, more than rounding makes


@dataclass(frozen=True, eq=False)
class Batch(Classified):
    """The samples of a batch on the model's device, and which are right without an attack."""

    number: int
    y: Tensor
    correct: Tensor  # bool [B]
    failed: Tensor  # bool [B], without finite logits
    seen: Tensor  # int64 [K], how many images of the whole batch the model takes for each class

    def take(self, kept: Tensor) -> "Batch":
        """Return the batch of some samples."""
        names = ("x", "y", "ids", "rows", "clean", "correct", "failed")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def varies(self) -> bool:
        """Return whether another pass of x has other logits."""
        again, clean = self.classifier.verdict(self.x), self.clean
        return clean is not None and not torch.allclose(again, clean, APART, APART, equal_nan=True)

    def as_right(self, right: Tensor) -> "Batch":
        """Return the batch with logits of a draw in which the samples `right` bool [B] are."""
        logits, y = self.clean, self.y[:, None]
        assert logits is not None
        top = logits.argmax(1, keepdim=True)
        swapped = logits.scatter(1, y, logits.gather(1, top)).scatter(1, top, logits.gather(1, y))
        return replace(self, clean=torch.where((right & ~self.correct)[:, None], swapped, logits))
