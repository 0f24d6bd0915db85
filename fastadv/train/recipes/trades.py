"""TRADES: accuracy on clean images, and the same prediction around each."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.train.recipes._common import NearPredictions, divergence, logits_at


@dataclass(frozen=True)
class TRADES(NearPredictions):
    """J(x, y) + beta · KL(p(x) || p(x_adv)), the mean over the batch; p is the softmax of the logits.

    x_adv maximizes the same divergence: `steps` projected steps from x + 0.001 · N(0, 1), with p(x) of the
    eval-mode network held fixed; the noise is keyed by (seed, id). Training moves both distributions. Images
    and examples pass in two batches, so that BatchNorm sees each separately, as in the authors' code.

    The authors' code differs in small things. It passes the clean batch a third time, so that running means
    weigh clean and adversarial images 67 to 33, here 47 to 53 (at momentum 0.1); it clamps to the box after
    the first step, here the start too; in L2 its steps are 2 · radius / steps long, and a sample without a
    gradient takes a random direction, here it stays.

    Args:
        threat: Linf, L2, L1 or L0 with one radius, in input units.
        steps: projected steps, >= 1.
        step_size: in input units; None is 2.5 · radius / steps.
        beta: weight of the divergence, >= 0; 6 as in section 5.3 of the paper.
        label_smoothing: that of J, in [0, 1).
        start: "near" starts at x + 0.001 · N(0, 1); "uniform" anywhere in the ball, as recipes with generated
            images do.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", limit=64)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> reports = fa.train.fit(model, digits, fa.train.TRADES(fa.Linf(0.1), steps=2), epochs=2)
        >>> len(reports)
        2

    Source:
        Zhang et al. 2019 (arXiv 1901.08573), equation 5 and algorithm 1.
    """

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        return self.away(model, x, y, ids, seed, divergence)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        clean = logits_at(model, x, y)
        natural = cross_entropy(clean, y, label_smoothing=self.label_smoothing)
        return natural + self.beta * divergence(clean, logits_at(model, x_adv, y)).mean()
