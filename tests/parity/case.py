"""One comparison: an attack in one norm, its budget, and the peers that serve it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from torch import Tensor

import fastadv.attacks
from fastadv.attacks import AttackResult
from fastadv.threat import THREATS
from tests.parity.peers import Peer

Budget = Mapping[str, Any]


def _same(budget: Budget, passes: float) -> Budget:
    return budget


@dataclass(frozen=True)
class Case:
    """An attack of the suite, its budget and its peers.

    A budget is given to ours and to the peers alike, and so much that both pass the model as often; `full` is
    for 100 images, `quick` is short enough for a test, on 25.

    `radius` is inf for a minimum-norm attack, which is measured by its median distance, and else that of the
    ball, measured by robust accuracy. `label` tells cases of one attack and norm apart.
    `ours` makes our arguments of a budget and of the passes that the best peer spent on each image.
    `few` are the most images of the short variant.
    `chance` says that the outcome hangs on random draws, which are not the peers'. Of the full variant there
    are then `seeds` runs and of the short one `few_seeds`, and all of their images count.
    """

    attack: str
    norm: str
    peers: tuple[Peer, ...]
    full: Budget
    quick: Budget
    radius: float = inf
    label: str = ""
    ours: Callable[[Budget, float], Budget] = _same
    few: int = 25
    chance: bool = False
    seeds: int = 1
    few_seeds: int = 1

    @property
    def name(self) -> str:
        """Such as "fmn-l1", or "apgd-ce-l1-5" with the radius where the attack needs one."""
        parts = (self.attack, self.label, self.norm, f"{self.radius:g}" if self.radius < inf else "")
        return "-".join(filter(None, parts))

    def allowed(self, figures: Sequence[Mapping[str, Any]], radius: float | None = None) -> float:
        """The largest figure that is no worse than the best: 1 % off, or by chance 10 % and an image more."""
        if (self.radius if radius is None else radius) < inf:
            best = min(figure["robust_accuracy"] for figure in figures)
            return best + (1.01 / figures[0]["images"] if self.chance else 0)
        return min(figure["median"] for figure in figures) * (1.1 if self.chance else 1.01)

    @property
    def exists(self) -> bool:
        known = fastadv.attacks.ATTACKS.get(self.attack)
        return self.norm in known.norms if known else hasattr(fastadv.attacks, self.attack)

    def run(
        self,
        model: Any,
        x: Tensor,
        y: Tensor,
        variant: str,
        passes: float = 1000,
        radius: float | None = None,
        **more: Any,
    ) -> AttackResult:
        """Our attack, with the budget of the variant, or with so many passes where queries are its budget."""
        threat = THREATS[self.norm](self.radius if radius is None else radius)
        attack = getattr(fastadv.attacks, self.attack)
        result: AttackResult = attack(model, x, y, threat, **self.ours(self.budget(variant), passes), **more)
        return result

    def budget(self, variant: str) -> Budget:
        return self.full if variant == "full" else self.quick

    def draws(self, variant: str) -> list[Budget]:
        """What tells the runs of the variant apart: a seed, where there are several."""
        seeds = self.seeds if variant == "full" else self.few_seeds
        return [{"seed": seed} for seed in range(seeds)] if seeds > 1 else [{}]

    def count(self, variant: str, samples: int = 100) -> int:
        return samples if variant == "full" else min(samples, self.few)


def with_more(**more: Any) -> Callable[[Budget, float], Budget]:
    return lambda budget, passes: {**budget, **more}


def as_many(budget: Budget, passes: float) -> Budget:
    """Our arguments where a peer spends more on a step: as many steps as its passes allow in our searches."""
    return {"searches": 5, "steps": max(int(passes / 2 / 5), 1)}


def queries(budget: Budget, passes: float) -> Budget:
    """Our arguments where a peer's budget is in steps and ours in queries: as many as the peer made."""
    return {"queries": max(int(passes), 10)}


def searched(loss: str, **more: Any) -> Callable[[Budget, float], Budget]:

    def ours(budget: Budget, passes: float) -> Budget:
        attack = partial(fastadv.attacks.apgd, steps=budget["steps"], loss=loss, **more)
        return {"searches": budget["searches"], "attack": attack}

    return ours
