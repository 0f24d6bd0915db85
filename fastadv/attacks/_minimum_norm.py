"""Which searches `minimum_norm` makes, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.core.inner import InnerAttack
from fastadv.attacks.ddn import ddn
from fastadv.attacks.fab import fab
from fastadv.attacks.fmn import fmn
from fastadv.attacks.methods.hyperplane import largest_others
from fastadv.attacks.pdpgd import pdpgd
from fastadv.attacks.sigma_zero import sigma_zero
from fastadv.attacks.superdeepfool import superdeepfool

# gradients of the first search, so that there is always one, and of the others
FIRST, STEPS = 20, 100
# projections of those that take a gradient for each of so many other classes
PROJECTIONS, TURNS, CLASSES = 30, 15, 9


@dataclass(frozen=True)
class Inner:
    """An attack with its arguments; its name in `by`; and how many gradients of each sample it takes."""

    name: str
    attack: InnerAttack
    cost: int
    targets: Tensor | None = None


def searches(search: core.Search, steps: int) -> Iterator[Inner]:
    """Yield the searches without end. Only the first depends on `steps`, if they are few."""
    norm, problem = search.threat.norm, search.problem
    assert problem.clean is not None
    free = problem.targets is None and problem.criterion is core.WRONG
    others = largest_others(problem.clean, search.y, None)
    rivals = min(CLASSES, others.shape[1]) if free else 1

    first = min(FIRST, steps)
    yield Inner("fmn", partial(fmn, steps=first), first)
    if norm == "l2":
        yield Inner("ddn", partial(ddn, steps=STEPS), STEPS)
        turns = partial(superdeepfool, steps=TURNS, candidates=CLASSES)
        yield Inner("superdeepfool", turns, TURNS * rivals)
    else:
        yield Inner("fmn", partial(fmn, steps=STEPS), STEPS)
    if norm == "l0":
        yield Inner("sigma_zero", partial(sigma_zero, steps=2 * STEPS), 2 * STEPS)
    yield Inner("pdpgd", partial(pdpgd, steps=STEPS), STEPS)
    if norm != "l0":
        yield Inner("fab", partial(fab, steps=PROJECTIONS, classes=CLASSES), PROJECTIONS * rivals)

    # to one class after the other; that of the largest logit comes last, since most samples ended there
    targets = list(others.roll(-1, 1).unbind(1)) if free and others.shape[1] > 1 else []
    aimed: dict[str, tuple[str, InnerAttack, int]] = {
        "l2": ("target ddn", ddn, STEPS),
        "l0": ("target pdpgd", pdpgd, STEPS),
    }
    name, attack, cost = aimed.get(norm, ("target fab", fab, PROJECTIONS))
    for number in count():
        for _ in range(min(STEPS // cost, len(targets))):
            yield Inner(name, partial(attack, steps=cost), cost, targets.pop(0))
        again = partial(
            fmn, steps=STEPS, starts=search.best.x_adv, restarts=2,
            seed=rng.derive(search.seed, "minimum_norm", number),
        )  # fmt: skip
        yield Inner("restart fmn", again, 2 * STEPS)
