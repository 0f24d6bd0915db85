"""A model that sees only on which side of a threshold each pixel lies."""

from torch import Tensor, nn

from fastadv._checks import check_number
from fastadv.engine import log_confidence

# of the binary networks of Schott et al. 2018
THRESHOLD = 0.5


def binarize(x: Tensor, threshold: float) -> Tensor:
    """Return 1 where x >= threshold, else 0, with the gradient of x itself; NaN stays NaN."""
    return (x >= threshold).to(x.dtype) + (x - x.detach())


class Binarized(nn.Module):
    """A model of binarized images: model(b) with b = 1 where x >= threshold, else 0.

    Called with x [B, ...] in the box, it returns logits [B, K]. The gradient at x is that of the model at b:
    the true gradient is zero, so the straight-through one replaces it. Attacks read `input_threshold`: only
    the side of a pixel counts, so a changed pixel can go back to its value in x or to the threshold, and the
    decision stays.

    Args:
        model: of binary images.
        threshold: a finite number.

    Raises:
        InputError: the threshold is not a finite number.

    Source:
        Bengio et al. 2013 (arXiv 1308.3432); Schott et al. 2018 (arXiv 1805.09190), who attack Binary CNN and
        Binary ABS with it.
    """

    def __init__(self, model: nn.Module, threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.model = model
        self.input_threshold = check_number("threshold", threshold)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(binarize(x, self.input_threshold))
        return logits

    def log_confidence(self, logits: Tensor) -> Tensor:
        """Return the log probabilities as the model inside means its logits."""
        return log_confidence(self.model, logits)
