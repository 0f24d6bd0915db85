"""How useful the features of a network are, with and without an adversary (section 2)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError

FLAT = 1e-4  # a feature that is linear in x is so to this share of its terms
RHO, GAMMA = 0.1, 0.0


class Kind(IntEnum):
    """The use of a feature for a class; over all classes, that for the class that it serves best."""

    USELESS = 0  # rho does not reach its threshold
    NON_ROBUST = 1  # rho does, and gamma does not
    ROBUST = 2  # both do

    @property
    def title(self) -> str:
        """The name as it is written in tables and figures."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, eq=False)
class Usefulness:
    """The usefulness of F features for K classes, each against the rest; tensors are float64.

    rho [F, K] is E[y s f(x)] >= 0, with the sign s for which that holds; gamma [F, K] is E[inf y s f(x +
    delta)], NaN for a constant feature, exact or an upper bound by an attack.
    """

    rho: Tensor
    gamma: Tensor
    constant: Tensor

    def kinds(self, rho: float = RHO, gamma: float = GAMMA) -> Tensor:
        """Return the kind of each feature for each class, by these thresholds."""
        useful = (self.rho >= rho).long()
        return useful + useful * (self.gamma >= gamma).long()

    def shares(self, rho: float = RHO, gamma: float = GAMMA) -> dict[Kind, float]:
        """Return the share of the features of each kind, each taken for the class that it serves best."""
        best = self.kinds(rho, gamma).amax(1)
        return {kind: (best == kind).double().mean().item() for kind in reversed(Kind)}

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON."""
        each = zip(self.rho.tolist(), self.gamma.tolist(), self.constant.tolist(), strict=True)
        return {
            "thresholds": {"rho": RHO, "gamma": GAMMA},
            "shares": {kind.title: share for kind, share in self.shares().items()},
            "features": [{"rho": rho, "gamma": None if flat else gamma} for rho, gamma, flat in each],
        }


def of_values(
    clean: Tensor, least: Tensor, greatest: Tensor, y: Tensor, classes: int, constant: Tensor
) -> Usefulness:
    """Return the result from values [N, F] of the features: at x, and the extremes that are reached."""
    mean, scale = clean.mean(0), torch.where(constant, 1.0, clean.std(0, correction=0))
    member = torch.nn.functional.one_hot(y, classes).double().T / len(y)  # [K, N]

    def split(values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a class adds to the mean of the normalized values, and the others, [K, F] both."""
        own = member @ ((values - mean) / scale)
        return own, own.sum(0) - own

    (own, others), low, high = split(clean), split(least), split(greatest)
    sign = torch.where(own - others < 0, -1, 1)
    # with the sign 1 the adversary lowers the feature of the class and raises that of the others
    gamma = torch.where(sign > 0, low[0] - high[1], low[1] - high[0])
    rho = (own - others).abs().masked_fill(constant, 0.0)
    return Usefulness(rho.T, gamma.masked_fill(constant, torch.nan).T, constant)


class Never(fa.attacks.Criterion):
    """Nothing is a success: an attack goes on to the strongest point it can find."""

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


def downwards(features: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    return -features.gather(1, y[:, None]).squeeze(1)


def upwards(features: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    return -downwards(features, y, targets)


def reached(
    frozen: fa.Frozen, attack: Callable[..., Any], batch_size: int, x: Tensor, ids: Tensor, clean: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the least and greatest features [n, F] by attacks on x [n, ...], whose own are `clean`."""
    least, greatest = clean.clone(), clean.clone()  # x itself is in the ball, too
    for sample, feature in _pairs(clean, batch_size):
        # a pair draws the same random start, whichever batch it is in
        keys = ids[sample] * clean.shape[1] + feature
        for found, loss, better in ((least, downwards, torch.minimum), (greatest, upwards, torch.maximum)):
            x_adv = attack(frozen, x[sample], feature, loss=loss, criterion=Never(), ids=keys).x_adv
            there = frozen.verdict(x_adv).double().gather(1, feature[:, None]).squeeze(1)
            found[sample, feature] = better(found[sample, feature], there)
    return least, greatest


class Exact:
    """The same of features that are linear in x, in closed form."""

    def __init__(self, frozen: fa.Frozen, x: Tensor, threat: fa.Threat, batch_size: int) -> None:
        self.frozen, self.threat, self.batch_size = frozen, threat, batch_size
        there, dtype = frozen.verdict(x[:1])[0].double(), frozen.dtype or x.dtype
        rows = torch.eye(len(there), device=x.device, dtype=dtype)
        self.weight = frozen.jacobian(x[:1].to(dtype), rows[None])[1][0].double()
        self.offset = there - _products(x[:1], self.weight)[0]

    def __call__(self, x: Tensor, ids: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        for point in (x, -x):  # also its mirror image, for kinks that no sample meets
            expected = _products(point, self.weight) + self.offset
            size = _products(point.abs(), self.weight.abs()) + self.offset.abs()
            got = self.frozen.verdict(point).double()
            if bool(((got - expected).abs() > FLAT * size).any()):
                raise InputError("attack: expected one for features that are not linear in x, got None")
        down, up = torch.empty_like(clean), torch.empty_like(clean)
        for sample, feature in _pairs(clean, self.batch_size):
            weight, points = self.weight[feature], x[sample].double()
            down[sample, feature] = self.threat.support(-weight, points)
            up[sample, feature] = self.threat.support(weight, points)
        return clean - down, clean + up


def _products(x: Tensor, weight: Tensor) -> Tensor:
    return x.double().flatten(1) @ weight.flatten(1).T


def _pairs(values: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (row, column) of all elements of values [n, F], so many at once."""
    for part in torch.split(torch.arange(values.numel(), device=values.device), batch_size):
        yield part // values.shape[1], part % values.shape[1]


def usefulness(
    model: nn.Module,
    images: ImageSet,
    threat: fa.Threat,
    attack: Callable[..., Any] | None = None,
    *,
    module: Any = None,
    batch_size: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Usefulness:
    """Measure E[y f(x)] and E[inf y f(x + delta)] of each feature f, of variance 1, for each class.

    Of f and -f, the one with E[y f(x)] >= 0 is taken; delta runs through the threat's ball in its box. Each
    feature of each sample is attacked twice, for its least and its greatest value. `attack` takes a loss;
    None: the exact extremes, for features that are linear in x. `module` is as in `fa.models.representation`.
    """
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    frozen = fa.freeze(fa.models.representation(model, module))
    search: Callable[..., tuple[Tensor, Tensor]] | None = None
    if attack is not None:
        search = partial(reached, frozen, partial(attack, threat=threat), batch_size)
    found, done = list[tuple[Tensor, ...]](), 0
    for x, y, ids in fa.data.batches(images, batch_size, box=threat.box):
        x, y, ids = (part.to(device) for part in (x, y, ids))
        clean = frozen.verdict(x).double()
        search = search or Exact(frozen, x, threat, batch_size)
        found.append((clean, *search(x, ids, clean), y))
        done += len(x)
        progress(done, len(images))
    clean, least, greatest, y = (torch.cat(parts) for parts in zip(*found, strict=True))
    resolution = torch.finfo(frozen.dtype or torch.float32).eps
    constant = clean.std(0, correction=0) <= 4 * resolution * clean.abs().amax(0)
    return of_values(clean, least, greatest, y, images.num_classes, constant)
