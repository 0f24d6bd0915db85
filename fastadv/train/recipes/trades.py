"""TRADES, MART and SCORE: accuracy on clean images, and the same prediction around each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, one_hot

from fastadv import rng
from fastadv._checks import check_choice, check_number
from fastadv.errors import InputError
from fastadv.labels import check_index
from fastadv.losses import Loss
from fastadv.threat import Threat
from fastadv.train.recipes import _common
from fastadv.train.recipes._followers import follower
from fastadv.train.recipes.base import Crafted

NOISE = 1e-3  # widths of the box, of a near start's noise: at x itself, the divergence has no gradient
STARTS = ("near", "uniform")


def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """Compute KL(softmax(logits) || softmax(other)) of each sample, [B]; both have a gradient."""
    terms = kl_div(other.log_softmax(1), logits.log_softmax(1), reduction="none", log_target=True)
    return terms.sum(1)


def squared(logits: Tensor, other: Tensor) -> Tensor:
    """Compute the squared distance between the probabilities of each sample, [B]."""
    return (logits.softmax(1) - other.softmax(1)).square().sum(1)


def _other(logits: Tensor, y: Tensor) -> Tensor:
    """Compute -log(1 - p_k) of each sample, [B], for the most likely class k other than y."""
    chances = logits.log_softmax(1)
    k = chances.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    # 1 - p_k as the sum of the other chances: a difference would round to 0 where p_k is near 1
    return -chances.scatter(1, k, -torch.inf).logsumexp(1)


@dataclass(frozen=True)
class NearPredictions(Crafted):
    """A loss with beta · a distance of p(x) and p(x_adv) in it: TRADES, MART and SCORE."""

    threat: Threat
    steps: int = 7
    step_size: float | None = None
    beta: float = 6.0
    label_smoothing: float = 0.0
    start: str = "near"
    loss: Loss = "ce"

    def __post_init__(self) -> None:
        _common.check_steps(self.threat, self.steps, self.step_size)
        check_number("beta", self.beta, 0)
        _common.check_objective(self.label_smoothing, self.loss)
        if self.loss != "ce" and not isinstance(self, TRADES):
            raise InputError(
                f"loss: expected none for {type(self).__name__}, which has its own, got {self.loss!r}; leave "
                "it out, or take TRADES or PGDTraining"
            )
        check_choice("start", self.start, STARTS)
        if self.start == "uniform":
            _common.check_finite(self.threat, "a start drawn from the ball")

    def begin(self, x: Tensor, ids: Tensor | None, seed: int) -> Tensor:
        if self.start == "uniform":
            return self.threat.random_start(x, seed=seed, ids=ids)
        width = self.threat.box[1] - self.threat.box[0]
        size = NOISE * (width if math.isfinite(width) else 1.0)
        return self.threat.project(x + size * _common.drawn(rng.normal, x, ids, seed, "near start"), x)

    def away(
        self, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor | None, seed: int,
        distance: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        """Craft examples that maximize distance(f(x), f(x_adv)) [B], with f(x) of the follower held fixed."""
        frozen = follower(model)
        clean = frozen(x)

        def apart(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            return distance(clean, logits)

        start = self.begin(x, ids, seed)
        return _common.ascent(frozen, x, y, self.threat, self.steps, self.step_size, loss=apart, start=start)


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
        loss: J, as in `Standard`.

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
        clean = _common.logits_at(model, x, y)
        natural = _common.mean_loss(clean, y, self.label_smoothing, self.loss)
        if self.loss == "ce":
            _common.watch(model, natural, clean.shape[1])
        return natural + self.beta * divergence(clean, _common.logits_at(model, x_adv, y)).mean()


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
        return _common.ascent(model, x, y, self.threat, self.steps, self.step_size, start=start)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        clean, adversarial = _common.logits_at(model, x, y), _common.logits_at(model, x_adv, y)
        missed = 1 - clean.softmax(1).gather(1, y[:, None])[:, 0]
        binary = (
            cross_entropy(adversarial, y, label_smoothing=self.label_smoothing)
            + _other(adversarial, y).mean()
        )
        loss: Tensor = binary + self.beta * (divergence(clean, adversarial) * missed).mean()
        return loss


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
        clean, adversarial = _common.logits_at(model, x, y), _common.logits_at(model, x_adv, y)
        classes = clean.shape[1]
        right = (1 - self.label_smoothing) * one_hot(y, classes).to(clean) + self.label_smoothing / classes
        natural = (clean.softmax(1) - right).square().sum(1)
        loss: Tensor = (natural + self.beta * squared(clean, adversarial)).mean()
        return loss
