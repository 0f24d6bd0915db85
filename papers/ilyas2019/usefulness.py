"""How useful the features of a network are, with and without an adversary (section 2)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
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

    rho [F, K] is E[y s f(x)] >= 0, with the `sign` s for which that holds; gamma [F, K] is E[inf y s f(x +
    delta)], NaN for a constant feature, exact or an upper bound by an attack; mean and std are [F].
    """

    rho: Tensor = field(repr=False)
    gamma: Tensor = field(repr=False)
    sign: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    constant: Tensor = field(repr=False)
    threat: fa.Threat
    exact: bool
    failed: int
    forwards: int
    backwards: int

    def kinds(self, rho: float = RHO, gamma: float = GAMMA) -> Tensor:
        """Return the kind of each feature for each class, by these thresholds."""
        useful = (self.rho >= rho).long()
        return useful + useful * (self.gamma >= gamma).long()

    def shares(self, rho: float = RHO, gamma: float = GAMMA) -> dict[Kind, float]:
        """Return the share of the features of each kind, each taken for the class that it serves best."""
        best = self.kinds(rho, gamma).amax(1)
        return {kind: (best == kind).double().mean().item() for kind in reversed(Kind)}

    def to_dict(self, rho: float = RHO, gamma: float = GAMMA) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON."""
        return {
            "samples": int(self.counts.sum()),
            "threat": self.threat.describe(),
            "exact": self.exact,
            "failed": self.failed,
            "forwards": self.forwards,
            "backwards": self.backwards,
            "thresholds": {"rho": rho, "gamma": gamma},
            "shares": {kind.title: share for kind, share in self.shares(rho, gamma).items()},
            "constant": self.constant.nonzero().flatten().tolist(),
            "features": [
                {
                    "feature": place,
                    "rho": self.rho[place].tolist(),
                    "gamma": None if self.constant[place] else self.gamma[place].tolist(),
                    "sign": self.sign[place].tolist(),
                }
                for place in range(len(self.rho))
            ],
        }


def of_values(
    clean: Tensor, least: Tensor, greatest: Tensor, y: Tensor, classes: int, constant: Tensor, **known: Any
) -> Usefulness:
    """Return the result from values [N, F] of the features: at x, and the extremes that are reached."""
    mean, std = clean.mean(0), clean.std(0, correction=0)
    scale = torch.where(constant, 1.0, std)
    member = torch.nn.functional.one_hot(y, classes).double().T / len(y)  # [K, N]

    def split(values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a class adds to the mean of the normalized values, and the others, [K, F] both."""
        own = member @ ((values - mean) / scale)
        return own, own.sum(0) - own

    (own, others), low, high = split(clean), split(least), split(greatest)
    sign = torch.where(own - others < 0, -1, 1)
    # with the sign 1 the adversary lowers the feature of the class and raises that of the others
    gamma = torch.where(sign > 0, low[0] - high[1], low[1] - high[0])
    return Usefulness(
        rho=(own - others).abs().masked_fill(constant, 0.0).T, gamma=gamma.masked_fill(constant, torch.nan).T,
        sign=sign.T, mean=mean, std=std, counts=y.bincount(minlength=classes), constant=constant, **known,
    )  # fmt: skip


class Never(fa.attacks.Criterion):
    """Nothing is a success: an attack goes on to the strongest point it can find."""

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


def downwards(features: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    return -features.gather(1, y[:, None]).squeeze(1)


def upwards(features: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    return -downwards(features, y, targets)


class Attacked:
    """Extremes by an attack on every feature of every sample, once downwards and once upwards."""

    def __init__(self, frozen: fa.Frozen, threat: fa.Threat, attack: Any, batch_size: int) -> None:
        self.frozen, self.threat, self.attack, self.batch_size = frozen, threat, attack, batch_size
        self.failed = 0

    def __call__(self, x: Tensor, ids: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return (least, greatest) for samples x [n, ...] with features `clean`, all float64 [n, F]."""
        least, greatest = clean.clone(), clean.clone()
        for sample, feature in _pairs(clean, self.batch_size):
            # a pair draws the same random start, whichever batch it is in
            keys = ids[sample] * clean.shape[1] + feature
            down, up = (self._reached(x[sample], feature, keys, loss) for loss in (downwards, upwards))
            # x itself is in the ball, too
            least[sample, feature] = least[sample, feature].minimum(down)
            greatest[sample, feature] = greatest[sample, feature].maximum(up)
        return least, greatest

    def _reached(self, x: Tensor, feature: Tensor, ids: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        out = self.attack(self.frozen, x, feature, threat=self.threat, loss=loss, criterion=Never(), ids=ids)
        self.failed += int((out.status == fa.attacks.Status.FAILED).sum())
        return self.frozen.verdict(out.x_adv).double().gather(1, feature[:, None]).squeeze(1)


class Exact:
    """Extremes of features that are linear in x, in closed form."""

    failed = 0

    def __init__(self, frozen: fa.Frozen, x: Tensor, threat: fa.Threat, batch_size: int) -> None:
        self.frozen, self.threat, self.batch_size = frozen, threat, batch_size
        self.offset = frozen.verdict(x[:1])[0].double()
        dtype = frozen.dtype or x.dtype
        rows = torch.eye(len(self.offset), device=x.device, dtype=dtype)
        self.weight = frozen.jacobian(x[:1].to(dtype), rows[None])[1][0].double()
        self.offset = self.offset - self._products(x[:1])[0]

    def __call__(self, x: Tensor, ids: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return as `Attacked`. InputError where a feature is not linear at x or at its mirror image."""
        for point in (x, -x):
            expected = self._products(point) + self.offset
            size = self._products(point.abs(), self.weight.abs()) + self.offset.abs()
            got = self.frozen.verdict(point).double()
            if bool(((got - expected).abs() > FLAT * size).any()):
                raise InputError(
                    "attack: expected an attack of fastadv.attacks for features that are not linear in x, "
                    "got None; for example partial(fa.attacks.pgd, steps=20)"
                )
        down, up = torch.empty_like(clean), torch.empty_like(clean)
        for sample, feature in _pairs(clean, self.batch_size):
            weight, points = self.weight[feature], x[sample].double()
            down[sample, feature] = self.threat.support(-weight, points)
            up[sample, feature] = self.threat.support(weight, points)
        return clean - down, clean + up

    def _products(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        weight = self.weight if weight is None else weight
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
    """Measure E[y f(x)] and E[inf y f(x + delta)] of each feature f for each class against the rest.

    With y = 1 for samples of the class and -1 for all others, and f shifted and scaled to mean 0 and variance
    1 over the samples measured, a feature is rho-useful if E[y f(x)] >= rho > 0, and gamma-robustly useful if
    E[inf y f(x + delta)] >= gamma > 0, where delta runs through the threat's ball in its box. Of f and -f,
    the one with E[y f(x)] >= 0 is taken. Where a class has the share p of the samples, rho is at most 2
    sqrt(p (1 - p)): 0.6 with ten equal classes.

    A class only decides the sign with which it reads a feature. So each feature of each sample is attacked
    twice, for its least and its greatest value, whatever the number of classes: 2 N F attacks, all of which
    share batches. `attack` takes a loss, as `partial(fa.attacks.pgd, steps=20)`; what it finds bounds gamma
    from above. None: the exact extremes in closed form, for features that are linear in x. `module` is where
    the features are, as in `fa.models.representation`: None for the input of the last linear layer.
    """
    counts = images.y.bincount(minlength=images.num_classes)
    if bool((counts == 0).any()):
        raise InputError(f"images: expected samples of every class, got {counts.tolist()}; measure on more")
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    frozen = fa.freeze(fa.models.representation(model, module))
    search: Attacked | Exact | None = None
    found, done = list[tuple[Tensor, ...]](), 0
    for x, y, ids in fa.data.batches(images, batch_size, box=threat.box):
        x, y, ids = (part.to(device) for part in (x, y, ids))
        clean = frozen.verdict(x).double()
        if not bool(clean.isfinite().all()):
            bad = ids[~clean.isfinite().all(1)].tolist()
            raise InputError(f"model: expected finite features, got others for samples {bad[:5]}")
        if search is None:
            search = (
                Exact(frozen, x, threat, batch_size)
                if attack is None
                else Attacked(frozen, threat, attack, batch_size)
            )
        found.append((clean, *search(x, ids, clean), y))
        done += len(x)
        progress(done, len(images))
    assert search is not None
    clean, least, greatest, y = (torch.cat(parts) for parts in zip(*found, strict=True))
    resolution = torch.finfo(frozen.dtype or torch.float32).eps
    return of_values(
        clean, least, greatest, y, images.num_classes, threat=threat, exact=attack is None,
        constant=clean.std(0, correction=0) <= 4 * resolution * clean.abs().amax(0), failed=search.failed,
        forwards=frozen.forwards, backwards=frozen.backwards,
    )  # fmt: skip
