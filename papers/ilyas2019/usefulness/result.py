"""What `usefulness` returns, and the means of each class that it is made of."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self

import torch
from torch import Tensor

from fastadv._checks import check_number
from fastadv.errors import InputError
from fastadv.text import aligned, number, percent
from fastadv.threat import Threat


class ClassMeans:
    """The mean and squared deviations of values [n, F] for each class, as in Chan et al. 1983; float64."""

    def __init__(self, classes: int, features: int, device: torch.device) -> None:
        options = {"dtype": torch.float64, "device": device}
        self.count = torch.zeros(classes, 1, **options)  # type: ignore[call-overload]
        self.mean = torch.zeros(classes, features, **options)  # type: ignore[call-overload]
        self.squares = torch.zeros_like(self.mean)

    def add(self, values: Tensor, y: Tensor) -> None:
        """Take in a batch: values float64 [n, F] of samples with labels y [n]."""
        member = torch.nn.functional.one_hot(y, len(self.count)).to(values).T
        count = member.sum(1, keepdim=True)
        mean = member @ values / count.clamp_min(1)
        away = mean - self.mean
        share = count / (self.count + count).clamp_min(1)
        self.squares += member @ (values - mean[y]).square() + away.square() * self.count * share
        self.mean += away * share
        self.count += count

    @property
    def share(self) -> Tensor:
        """[K, 1] the share of each class in all samples."""
        share: Tensor = self.count / self.count.sum()
        return share

    def overall(self) -> tuple[Tensor, Tensor]:
        """Return (mean [F], standard deviation [F]) over all samples, the deviation with 1 / n."""
        mean = (self.share * self.mean).sum(0)
        between = (self.share * (self.mean - mean).square()).sum(0)
        return mean, (self.squares.sum(0) / self.count.sum() + between).sqrt()


RHO, GAMMA = 0.1, 0.0


class Kind(IntEnum):
    """The use of a feature for a class; over all classes, that for the class that it serves best.

    Attributes:
        USELESS: 0, rho does not reach its threshold.
        NON_ROBUST: 1, rho does, and gamma does not.
        ROBUST: 2, both do.
    """

    USELESS = 0
    NON_ROBUST = 1
    ROBUST = 2

    @property
    def title(self) -> str:
        """The name as it is written in tables and figures."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, eq=False)
class Usefulness:
    """The usefulness of F features for K classes, each against the rest.

    Attributes:
        rho: float64 [F, K]; E[y s f(x)] >= 0, with the sign s for which that holds.
        gamma: float64 [F, K]; E[inf y s f(x + delta)]; at most rho. NaN for a constant feature.
        sign: int64 [F, K]; s, 1 or -1.
        mean: float64 [F], of the features as the network gives them, over the samples measured.
        std: float64 [F], their standard deviation.
        features: int64 [F]; their numbers in the representation.
        classes: the names of the K classes.
        counts: int64 [K]; samples of each class.
        constant: bool [F]; features that are the same for all samples, of no use.
        threat: of the adversary.
        exact: whether gamma is a closed form, and not an upper bound by an attack.
        failed: attacks that met numbers that are not finite; their best point still counts.
        forwards: samples passed forward.
        backwards: samples for which an input gradient was computed.
    """

    rho: Tensor = field(repr=False)
    gamma: Tensor = field(repr=False)
    sign: Tensor = field(repr=False)
    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)
    features: Tensor = field(repr=False)
    classes: tuple[str, ...]
    counts: Tensor = field(repr=False)
    constant: Tensor = field(repr=False)
    threat: Threat
    exact: bool
    failed: int
    forwards: int
    backwards: int

    @classmethod
    def _of(cls, clean: ClassMeans, least: ClassMeans, greatest: ClassMeans, **known: Any) -> Self:
        """Return the result from means of the features, and of what was reached under attack."""
        mean, std = clean.overall()
        constant = known["constant"]
        scale = torch.where(constant, 1.0, std)

        def split(values: ClassMeans) -> tuple[Tensor, Tensor]:
            """Return what a class adds to the mean of the normalized values, and the others, [K, F] both."""
            own = values.share * (values.mean - mean) / scale
            return own, own.sum(0) - own

        (own, others), low, high = split(clean), split(least), split(greatest)
        sign = torch.where(own - others < 0, -1, 1)
        # with the sign 1 the adversary lowers the feature of the class and raises that of the others
        gamma = torch.where(sign > 0, low[0] - high[1], low[1] - high[0])
        return cls(
            rho=(own - others).abs().masked_fill(constant, 0.0).T,
            gamma=gamma.masked_fill(constant, torch.nan).T,
            sign=sign.T,
            mean=mean,
            std=std,
            counts=clean.count.flatten().long(),
            **known,
        )

    def kinds(self, rho: float = RHO, gamma: float = GAMMA) -> Tensor:
        """Return the kind of each feature for each class.

        It is robust where rho and gamma reach their thresholds, non-robust where only rho does.
        """
        if check_number("rho", rho, 0) == 0:
            raise InputError("rho: expected a threshold > 0, got 0; at 0 every feature would be useful")
        check_number("gamma", gamma, 0)
        useful = (self.rho >= rho).long()
        return useful + useful * (self.gamma >= gamma).long()

    def shares(self, rho: float = RHO, gamma: float = GAMMA) -> dict[Kind, float]:
        """Return the share of the features of each kind, each taken for the class that it serves best."""
        best = self.kinds(rho, gamma).amax(1)
        return {kind: (best == kind).double().mean().item() for kind in reversed(Kind)}

    def __str__(self) -> str:
        """Return a line for each class, and one for the best of them."""
        kinds = self.kinds()
        rows = [(name, kinds[:, k], self.rho[:, k], self.gamma[:, k]) for k, name in enumerate(self.classes)]
        rows.append(("any", kinds.amax(1), self.rho.amax(1), self.gamma.nan_to_num(-torch.inf).amax(1)))
        cells = [["class", *(kind.title for kind in reversed(Kind)), "largest rho", "largest gamma"]]
        for name, kind, rho, gamma in rows:
            shares = [percent((kind == each).double().mean().item(), 0) for each in reversed(Kind)]
            largest = [number(rho.max().item()), number(gamma.nan_to_num(-torch.inf).max().item())]
            cells.append([name, *shares, *largest])
        return aligned(cells)

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
            "constant": self.features[self.constant].tolist(),
            "features": [
                {
                    "feature": feature,
                    "rho": self.rho[place].tolist(),
                    "gamma": None if self.constant[place] else self.gamma[place].tolist(),
                    "sign": self.sign[place].tolist(),
                }
                for place, feature in enumerate(self.features.tolist())
            ],
        }
