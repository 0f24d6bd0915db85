"""MART: images that the network misclassifies count more."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.train.recipes._common import NearPredictions, ascent, divergence, logits_at


def _other(logits: Tensor, y: Tensor) -> Tensor:
    """Compute -log(1 - p_k) of each sample, [B], for the most likely class k other than y."""
    chances = logits.log_softmax(1)
    k = chances.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    # 1 - p_k as the sum of the other chances: a difference would round to 0 where p_k is near 1
    return -chances.scatter(1, k, -torch.inf).logsumexp(1)


@dataclass(frozen=True)
class MART(NearPredictions):
    """BCE(x_adv, y) + beta · KL(p(x) || p(x_adv)) · (1 - p_y(x)), the mean over the batch.

    BCE = -log p_y(x_adv) - log(1 - p_k(x_adv)), where k is the most likely class other than y. No part is
    held fixed. x_adv maximizes the cross-entropy: `steps` projected steps from x + 0.001 · N(0, 1), as in the
    authors' code, the noise keyed by (seed, id).

    The second term is the paper's, without a bound: its gradient by the logit of k stays near p_k where the
    network is sure of k. The authors' code takes log(1.0001 - p_k), which ends at 9.2 and whose gradient
    vanishes there.

    Args:
        beta: weight of the second term, >= 0; 5 as in the paper, 6 in the authors' code.
        label_smoothing: that of the first term, in [0, 1).
        others: as in `TRADES`.

    Source:
        Wang et al. 2020 (ICLR, Improving adversarial robustness requires revisiting misclassified examples),
        equations 6 to 8 and 11.
    """

    beta: float = 5.0

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        start = self.begin(x, ids, seed)
        return ascent(model, x, y, self.threat, self.steps, self.step_size, start=start)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        clean, adversarial = logits_at(model, x, y), logits_at(model, x_adv, y)
        missed = 1 - clean.softmax(1).gather(1, y[:, None])[:, 0]
        binary = (
            cross_entropy(adversarial, y, label_smoothing=self.label_smoothing)
            + _other(adversarial, y).mean()
        )
        loss: Tensor = binary + self.beta * (divergence(clean, adversarial) * missed).mean()
        return loss
