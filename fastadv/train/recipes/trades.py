"""TRADES: accuracy on clean images, and the same prediction around each."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.train.recipes._common import NearPredictions, divergence


@dataclass(frozen=True)
class TRADES(NearPredictions):
    """J(x, y) + beta · KL(p(x) || p(x_adv)), the mean over the batch; p is the softmax of the logits.

    x_adv maximizes the same divergence: `steps` projected steps from x + 0.001 · N(0, 1), with p(x) of the
    eval-mode network held fixed; the noise is keyed by (seed, id). Training moves both distributions. Images
    and examples pass in two batches, so that BatchNorm sees each alone, as in the authors' code. step_size is
    in input units, by default 2.5 · radius / steps. label_smoothing is that of J. start "uniform" draws from
    the ball instead, as recipes with generated images do.

    The authors' code differs in small things. It passes the clean batch a third time, so that running means
    weigh clean and adversarial images 67 to 33, here 47 to 53 (at momentum 0.1); it clamps to the box after
    the first step, here the start too; in L2 its steps are 2 · radius / steps long, and a sample without
    a gradient takes a random direction, here it stays.

    Raises InputError for beta < 0, steps < 1, a step size that moves nothing, a radius per sample, or an
    infinite radius without a step size.
    Source: Zhang et al. 2019 (arXiv 1901.08573), equation 5 and algorithm 1; beta = 6 in section 5.3.
    """

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        return self.away(model, x, y, ids, seed, divergence)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        clean = model(x)
        natural = cross_entropy(clean, y, label_smoothing=self.label_smoothing)
        return natural + self.beta * divergence(clean, model(x_adv)).mean()
