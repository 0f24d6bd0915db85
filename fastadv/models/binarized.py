"""A model that sees only on which side of a threshold each pixel lies."""

from torch import Tensor, nn

from fastadv._checks import check_number
from fastadv.engine import log_confidence

# of the binary networks of Schott et al. 2018
THRESHOLD = 0.5


def binarize(x: Tensor, threshold: float) -> Tensor:
    """Return 1 where x >= threshold, else 0, with the gradient of x itself (straight-through); NaN stays NaN.

    The threshold is rounded to the dtype of x.
    """
    return (x >= threshold).to(x.dtype) + (x - x.detach())


class Binarized(nn.Module):
    """model(b) with b = 1 where x >= threshold, else 0; the gradient at x is that of the model at b.

    The true gradient is zero, so the straight-through one takes its place (Bengio et al. 2013; Schott et al.
    2018 attack Binary CNN and Binary ABS with it). Attacks read `input_threshold`: only the side of a pixel
    counts, so a changed pixel can go back to its value in x or to the threshold: the decision stays.

    x: [B, ...] in the box -> logits [B, K]. InputError for a threshold that is not a finite number.
    """

    def __init__(self, model: nn.Module, threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.model = model
        self.input_threshold = check_number("threshold", threshold)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(binarize(x, self.input_threshold))
        return logits

    def log_confidence(self, logits: Tensor) -> Tensor:
        """Return as the model inside means its logits."""
        return log_confidence(self.model, logits)
