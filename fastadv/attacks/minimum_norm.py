"""The least of several attacks for the minimum norm, sample by sample."""

from dataclasses import dataclass, fields
from typing import Unpack

import torch
from torch import Tensor

from fastadv._checks import check_seed
from fastadv.attacks import core
from fastadv.attacks._minimum_norm import searches
from fastadv.attacks.core.inner import merge_result, run_inner
from fastadv.threat import Threat


@dataclass(frozen=True, eq=False, repr=False)
class MinimumNormResult(core.AttackResult):
    """The outcome of `minimum_norm`: an `AttackResult` that also says which attack found each point.

    Attributes:
        by: for each sample, the name of the attack that found x_adv, such as "ddn" or "restart fmn"; "" where
            none did, or where x was already wrong.
        others: as in `AttackResult`.
    """

    by: tuple[str, ...] = ()


@core.takes_common(norms=("linf", "l2", "l1", "l0"), steps=1)
def minimum_norm(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 1000,
    seed: int = 0,
    **common: Unpack[core.Common],
) -> MinimumNormResult:
    """Find the success nearest to x by several attacks, and keep the nearest of each sample.

    No attack for the minimum norm is the best on all networks, and most end in the first local minimum, where
    more steps gain nothing. So several run in turns, and what is left of the steps goes to searches that
    begin elsewhere:

    - First `fmn`, `pdpgd` and, except in L0, `fab` attack each sample, in L2 also `ddn` and `superdeepfool`,
      in L0 `sigma_zero`.
    - Then, in turns, `fab` (in L2 `ddn`, in L0 `pdpgd`) leads to one other class after the other, in
      the order of their logits but for the largest, which comes last, and `fmn` begins at the nearest success
      so far and once more at a random point. With targets or a criterion there are only restarts.

    The searches and their order are the same for any number of steps, which only says after which of them
    there are no more. So from 20 steps on, more of them never end at a larger distance.

    Args:
        steps: gradients for each sample in all searches together, >= 1. The first attacks take 400 to 700 on
            a model of ten classes. A search that would go beyond this number does not begin.
        seed: of the random points of restarts.

    Returns:
        A `MinimumNormResult` with the adversarial examples x_adv, like x, and success, bool [B]. Where
        nothing was found, x_adv is x itself.

    Example:
        >>> out = fa.attacks.minimum_norm(model, x, y, fa.L2(float("inf")), steps=300)
        >>> bool(out.success.all()), bool((out.distance < 2).all())
        (True, True)

    Source:
        Of the attacks, each its own. The idea to take the nearest of several is that of Cinà et al. 2025,
        "AttackBench" (arXiv 2404.19460).
    """
    check_seed(seed)
    found: dict[int, str] = {}

    def rule(search: core.Search) -> None:
        places, spent = search.per_sample(torch.arange(len(y), device=search.y.device)), 0
        # whether it is finite: a member whose success lies beyond the caller's radius does not say so
        search.gradient(search.x)
        for one in searches(search, steps):
            spent += one.cost
            if spent > steps:
                return
            before = search.best.distance
            out = run_inner(one.attack, search, search.classifier, search.threat, one.targets)
            merge_result(search, out)
            nearer = search.best.distance < before
            found.update(dict.fromkeys(places[nearer].tolist(), one.name))

    out = core.run(model, x, y, threat, rule, minimum=True, seed=seed, **common)
    values = {value.name: getattr(out, value.name) for value in fields(core.AttackResult)}
    broken = (out.status == core.Status.BROKEN).tolist()
    by = tuple(found.get(place, "") if met else "" for place, met in enumerate(broken))
    return MinimumNormResult(**values, by=by)
