"""The least of several attacks for the minimum norm, sample by sample."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from itertools import count
from typing import Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_seed
from fastadv.attacks import core
from fastadv.attacks.ddn import ddn
from fastadv.attacks.deepfool import superdeepfool
from fastadv.attacks.fab import fab
from fastadv.attacks.fmn import fmn
from fastadv.attacks.methods.hyperplane import largest_others
from fastadv.attacks.methods.inner import inner_task, merge_result
from fastadv.attacks.pdpgd import pdpgd
from fastadv.attacks.sigma_zero import sigma_zero
from fastadv.threat import Threat


@dataclass(eq=False, repr=False)
class MinimumNormResult(core.AttackResult):
    """The outcome of `minimum_norm`: an `AttackResult` that also says which attack found each point.

    Attributes:
        by: for each sample, the name of the attack that found x_adv, such as "ddn" or "restart fmn"; "" where
            none did, or where x was already wrong.
        others: as in `AttackResult`.
    """

    by: tuple[str, ...] = ()


@core.registered(kind="minimum", random=True, paper="of each attack its own")
@core.tested(quick={"steps": 40}, oracle={"steps": 500})
@core.takes_common(norms=("linf", "l2", "l1", "l0"), steps=1)
def minimum_norm(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 1000, seed: int = 0,
    **common: Unpack[core.Common],
) -> MinimumNormResult:  # fmt: skip
    """Find the success nearest to x by several attacks, and keep the nearest of each sample.

    No attack for the minimum norm is the best on all networks, and most end in the first local minimum, where
    more steps gain nothing. First `fmn`, `pdpgd` and, except in L0, `fab` attack each sample, in L2 also
    `ddn` and `superdeepfool`, in L0 `sigma_zero`. Then, in turns, `fab` (in L2 `ddn`, in L0 `pdpgd`) leads to
    one other class after the other, in the order of their logits but for the largest, which comes last, and
    `fmn` begins at the nearest success so far and once more at a random point. With targets or a criterion
    there are only restarts. The number of steps only says after which of these searches there are no more, so
    from 20 on more of them never end at a larger distance.

    Args:
        threat: Linf, L2, L1 or L0; the radius is inf or the largest distance of interest, a number or [B].
        steps: gradients for each sample in all searches together, >= 1. The first attacks take 400 to 700 on
            a model of ten classes. A search that would go beyond this number does not begin.
        seed: of the random points of restarts.
        others: as in `pgd`, and so is Raises.

    Returns:
        A `MinimumNormResult` with the adversarial examples x_adv, like x, and success, bool [B]. Where
        nothing was found, x_adv is x itself.

    Source:
        Of the attacks, each its own. The idea to take the nearest of several is that of Cinà et al. 2025,
        "AttackBench" (arXiv 2404.19460).
    """
    check_seed(seed)
    winners = dict[int, str]()

    def rule(search: core.Search) -> None:
        places, spent = search.per_sample(torch.arange(len(x), device=search.ids.device)), 0
        # a finite distance: a member whose success lies beyond the caller's radius does not say so
        search.gradient(search.x)
        for one in searches(search, steps):
            spent += one.cost
            if spent > steps:
                return
            before = search.best.distance
            out = one.attack(inner_task(search, search.threat, one.targets))
            merge_result(search, out)
            nearer = search.best.distance < before
            winners.update(dict.fromkeys(places[nearer].tolist(), one.name))

    out = core.run(model, x, y, threat, rule, minimum=True, seed=seed, **common)
    values = {value.name: getattr(out, value.name) for value in fields(core.AttackResult)}
    broken = (out.status == core.Status.BROKEN).tolist()
    by = tuple(winners.get(place, "") if met else "" for place, met in enumerate(broken))
    return MinimumNormResult(**values, by=by)


# The searches, in their order.

# gradients of the first search, so that there is always one, and of the others
FIRST, STEPS = 20, 100
# projections of those that take a gradient for each of so many other classes
PROJECTIONS, TURNS, CLASSES = 30, 15, 9


@dataclass(frozen=True)
class Inner:
    """An attack with its arguments; its name in `by`; and how many gradients of each sample it takes."""

    name: str
    attack: Callable[[core.Task], core.AttackResult]
    cost: int
    targets: Tensor | None = None


def searches(search: core.Search, steps: int) -> Iterator[Inner]:
    """Yield the searches without end. Only the first depends on `steps`, if they are few."""
    norm, problem = search.threat.norm, search.problem
    assert problem.clean is not None
    free = problem.targets is None and problem.criterion is core.WRONG
    others = largest_others(problem.clean, search.y, None) if free else problem.clean[:, :0]
    rivals = min(CLASSES, others.shape[1]) if free else 1
    linear = problem.criterion.outputs == "classes"  # whether those serve that take the model for linear

    first = min(FIRST, steps)
    yield Inner("fmn", partial(fmn.on, steps=first), first)
    if norm == "l2":
        yield Inner("ddn", partial(ddn.on, steps=STEPS), STEPS)
        turns = partial(superdeepfool.on, steps=TURNS, candidates=CLASSES)
        if linear:
            yield Inner("superdeepfool", turns, TURNS * rivals)
    else:
        yield Inner("fmn", partial(fmn.on, steps=STEPS), STEPS)
    if norm == "l0":
        yield Inner("sigma_zero", partial(sigma_zero.on, steps=2 * STEPS), 2 * STEPS)
    yield Inner("pdpgd", partial(pdpgd.on, steps=STEPS), STEPS)
    if norm != "l0" and linear:
        yield Inner("fab", partial(fab.on, steps=PROJECTIONS, classes=CLASSES), PROJECTIONS * rivals)

    # one class follows the other; that of the largest logit comes last, since most samples ended there
    targets = list(others.roll(-1, 1).unbind(1)) if others.shape[1] > 1 else []
    aimed = {"l2": ("target ddn", ddn.on, STEPS), "l0": ("target pdpgd", pdpgd.on, STEPS)}
    name, attack, cost = aimed.get(norm, ("target fab", fab.on, PROJECTIONS))
    for number in count():
        for _ in range(min(STEPS // cost, len(targets))):
            yield Inner(name, partial(attack, steps=cost), cost, targets.pop(0))
        again = partial(
            fmn.on, steps=STEPS, starts=search.best.x_adv, restarts=2,
            seed=rng.derive(search.seed, "minimum_norm", number),
        )  # fmt: skip
        yield Inner("restart fmn", again, 2 * STEPS)
