"""SCORE: TRADES with squared distances between probabilities."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import one_hot

from fastadv.attacks.special.labels import check_index
from fastadv.train.recipes._common import NearPredictions, logits_at


@dataclass(frozen=True)
class SCORE(NearPredictions):
    """The mean of ‖p(x) - y‖² + beta · ‖p(x_adv) - p(x)‖², where y is one-hot, or smoothed.

    x_adv maximizes the same distance: `steps` projected steps, with p(x) of the eval-mode network held fixed.
    With a distance that obeys the triangle inequality the best model of clean images remains the best robust
    one, which does not hold for KL. The authors' label smoothing of 0.1 is spread over the other classes
    only.

    Args:
        beta: weight of the second term, >= 0. It has no default in the authors' code.
        label_smoothing: the share of each label that is spread over all classes, in [0, 1).
        start: "uniform" starts anywhere in the ball, as in the authors' code; "near" at x + 0.001 · N(0, 1).
        others: as in `TRADES`.

    Source:
        Pang et al. 2022 (arXiv 2202.10103), section 4, the squared error (LSE) in place of KL.
    """

    beta: float = 4.0
    start: str = "uniform"

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        return self.away(model, x, y, ids, seed, squared)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        y = check_index("y", y, len(x), x.device)
        clean, adversarial = logits_at(model, x, y), logits_at(model, x_adv, y)
        classes = clean.shape[1]
        right = (1 - self.label_smoothing) * one_hot(y, classes).to(clean) + self.label_smoothing / classes
        natural = (clean.softmax(1) - right).square().sum(1)
        loss: Tensor = (natural + self.beta * squared(clean, adversarial)).mean()
        return loss


def squared(logits: Tensor, other: Tensor) -> Tensor:
    """Compute the squared distance between the probabilities of each sample, [B]."""
    return (logits.softmax(1) - other.softmax(1)).square().sum(1)
