"""What `usefulness` returns."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

import fastadv as fa

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
    delta)], at most rho, NaN for a feature that is constant. mean and std [F] are those of the features as
    the network gives them; counts [K], the samples of each class. gamma is exact, or an upper bound by an
    attack, of which `failed` met numbers that are not finite.
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
        """Return the kind of each feature for each class.

        It is robust where rho and gamma reach their thresholds, non-robust where only rho does.
        """
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
