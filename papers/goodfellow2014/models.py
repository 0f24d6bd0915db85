"""The networks of the paper; commands take them as `-m papers.goodfellow2014.models:RBF`."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

import fastadv as fa
from papers.study import CPU

INITIAL_RANGE = 0.005  # first weights are drawn from ±this, first biases are 0, as in pylearn2
LEAST = 1e-6  # of the distance to a template, so that log-odds are finite at the template itself


class Masked(nn.Dropout):
    """Dropout of inputs as in pylearn2: what is kept is not enlarged, in training or afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 - self.p) if self.training else x


class Maxout(nn.Module):
    """Layers of units that are each the largest of `pieces` linear functions, and a linear top.

    With 240 units the network of Goodfellow et al. 2013, section 5.1; dropout is that of pylearn2.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 28, 28),
        classes: int = 10,
        *,
        units: int = 240,
        pieces: int = 5,
        layers: int = 2,
        input_dropout: float = 0.2,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.pieces = tuple(shape), pieces
        sizes = [math.prod(shape), *[units] * layers]
        with fa.rng.generators_kept(CPU, seed):
            self.hidden = nn.ModuleList(nn.Linear(size, pieces * units) for size in sizes[:-1])
            self.linear = nn.Linear(units, classes)
            for weight in self.parameters():
                if weight.ndim > 1:
                    nn.init.uniform_(weight, -INITIAL_RANGE, INITIAL_RANGE)
                else:
                    nn.init.zeros_(weight)
        self.mask, self.dropout = Masked(input_dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mask(x.flatten(1))
        for layer in self.hidden:
            pieces = layer(x).unflatten(1, (self.pieces, -1))  # piece p of unit u is p · units + u
            x = self.dropout(pieces.amax(1))
        logits: Tensor = self.linear(x)
        return logits


class Quadratic(nn.Module):
    """Logits V (W x + b)² + c. The paper (section 7) does not define its quadratic units: this is ours."""

    def __init__(
        self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, *, units: int = 240, seed: int = 0
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        with fa.rng.generators_kept(CPU, seed):
            self.hidden = nn.Linear(math.prod(shape), units)
            self.linear = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.hidden(x.flatten(1)).square())
        return logits


def confidence(frozen: Any, x: Tensor) -> Tensor:
    """Return the probability of each class, [B, K], that a frozen model gives images x [B, ...]."""
    return fa.losses.log_confidence(frozen.model, frozen.verdict(x)).exp()


class EachOnItsOwn(nn.Module):
    """A network whose logits are log-odds, those of each class on its own; for the loss "bce"."""

    def confidence(self, x: Tensor) -> Tensor:
        """Return the probability of each class, [B, K]; they need not sum to 1."""
        chances: Tensor = self(x).sigmoid()
        return chances

    def log_confidence(self, logits: Tensor) -> Tensor:
        """Return the logarithms of these probabilities, [B, K], from the logits [B, K]."""
        return logsigmoid(logits)


class RBF(EachOnItsOwn):
    """A network of radial basis functions: P(class k | x) = exp(-d_k(x)), d_k(x) = sum_i s_ki² (x_i - m_ki)².

    The paper (section 7) prints exp((x - m)ᵀ β (x - m)) and says no more of β, here diagonal, -s_k². The
    logits are the log-odds of these probabilities.
    """

    def __init__(self, shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, *, seed: int = 0) -> None:
        super().__init__()
        self.shape, size = tuple(shape), math.prod(shape)
        with fa.rng.generators_kept(CPU, seed):
            self.templates = nn.Parameter(torch.rand(classes, size))
            self.scales = nn.Parameter(torch.full((classes, size), 2 / math.sqrt(size)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)[:, None]
        distance = ((x - self.templates) * self.scales).square().sum(2).clamp(min=LEAST)
        return -distance - (-torch.expm1(-distance)).log()


class Sigmoids(EachOnItsOwn):
    """A model whose logits are read as log-odds: P(class k | x) = sigmoid(logit k) (appendix A)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


def maxout_sigmoids(shape: tuple[int, ...] = (1, 28, 28), classes: int = 10, **options: Any) -> Sigmoids:
    return Sigmoids(Maxout(shape, classes, **options))


class Ensemble(nn.Module):
    """The mean of the members' probabilities as logits: log(mean over m of softmax(model_m(x)))."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.stack([member(x).log_softmax(1) for member in self.members])
        return each.logsumexp(0) - math.log(len(self.members))


for net in (Masked, Maxout, Quadratic, EachOnItsOwn, RBF, Sigmoids, Ensemble):
    net.__module__ = "fastadv.studies.goodfellow2014.models"  # as the run folders of `fastadv study` know it
