"""IKL: TRADES with the divergence taken apart, and weighted by what the network says of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from fastadv._checks import check_number
from fastadv.train.recipes._common import NearPredictions, check_positive, divergence
from fastadv.train.recipes.base import BatchPart, OwnStep, Step


@dataclass(frozen=True)
class IKL(NearPredictions, OwnStep):
    """J(x, y) + beta · M + soft · H, the improved KL divergence (DKL) of clean and adversarial logits.

    H is the mean cross-entropy of p(x_adv) with p(x) held fixed, at the temperature. M compares differences
    of logits, Σ w_j w_k ((z_j - z_k) - (z'_j - z'_k))² / 4 over pairs of classes and samples, divided by Σ
    w_j w_k; both networks move in it. The weights w of a sample are those of its class: the mean p(x) of the
    images of that class over the last epoch, at the temperature, to the power `power`; 1 / K in the first.
    They are kept in the run's state. Called as a loss, in a loop of one's own, the recipe has weights 1 / K
    throughout. x_adv maximizes KL(p(x) || p(x_adv)), as in TRADES, which has H's gradient.

    Args:
        beta: weight of M, >= 0.
        soft: weight of H, >= 0.
        temperature: of p, > 0.
        power: of the class weights, > 0; 1 or 0.2 in the authors' code.
        others: as in `TRADES`.

    Source:
        Cui et al. 2024 (arXiv 2305.13948), equation 9, normalized as in the authors' second version, whose
        beta, soft and temperature are the defaults.
    """

    beta: float = 20.0
    soft: float = 4.0
    temperature: float = 4.0
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("soft", self.soft, 0)
        check_positive("temperature", self.temperature)
        check_positive("power", self.power)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        return self.away(model, x, y, ids, seed, divergence)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        clean, adversarial = model(x), model(x_adv)
        weights = self._weights(_even(clean), y)
        return self._loss((clean, adversarial), y, weights, weights)

    def step(self, at: Step) -> Sequence[Tensor]:

        def passed(part: BatchPart) -> tuple[Tensor, Tensor]:
            with part.autocast():
                x_adv = self.craft(part.model, part.x, part.y, ids=part.ids, seed=part.seed)
                adversarial, clean = part.model(x_adv), part.model(part.x)
            wide = torch.promote_types(clean.dtype, torch.float32)
            return clean.to(wide), adversarial.to(wide)

        logits, y = at.each(passed), at.share.whole(at.y)
        if at.index == 0 or "means" not in at.state:
            _turn(at.state, logits[0][0])
        means = at.state["means"]
        whole = self._weights(means, y)
        losses = at.each(
            lambda part, own: self._loss(own, part.y, self._weights(means, part.y), whole), logits
        )
        at.backward(losses)
        at.descend()
        said = at.share.whole(at.share.joined([clean.detach() for clean, _ in logits]))
        chances = (said / self.temperature).softmax(1)
        at.state["sums"] += one_hot(y, chances.shape[1]).to(chances).T @ chances
        return losses

    def _weights(self, means: Tensor, y: Tensor) -> Tensor:
        return means[y] ** self.power

    def _loss(self, logits: tuple[Tensor, Tensor], y: Tensor, weights: Tensor, whole: Tensor) -> Tensor:
        """Compute the loss of these rows; `whole` are the weights of the whole batch."""
        clean, adversarial = logits
        apart = clean - adversarial
        # the sum over pairs is 2 (Σ w Σ w d² - (Σ w d)²)
        pairs = weights.sum(1) * (weights * apart**2).sum(1) - (weights * apart).sum(1) ** 2
        moved = pairs.mean() / (2 * (whole.sum(1) ** 2).mean())
        hot = self.temperature
        spread = cross_entropy(adversarial / hot, (clean / hot).softmax(1).detach())
        natural = cross_entropy(clean, y, label_smoothing=self.label_smoothing)
        return natural + self.beta * moved + self.soft * spread


def _even(logits: Tensor) -> Tensor:
    """Return weights that prefer no class, [K, K]."""
    classes = logits.shape[1]
    return torch.full((classes, classes), 1 / classes, dtype=logits.dtype, device=logits.device)


def _turn(state: dict[str, Tensor], logits: Tensor) -> None:
    """Begin an epoch: the means of the last one become the weights; a class without images keeps its own."""
    means, sums = state.get("means", _even(logits)), state.get("sums", torch.zeros_like(_even(logits)))
    total = sums.sum(1, keepdim=True)
    state["means"] = torch.where(total > 0, sums / total.where(total > 0, 1.0), means)
    state["sums"] = torch.zeros_like(sums)
