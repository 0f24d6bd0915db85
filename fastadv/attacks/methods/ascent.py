"""Steepest ascent with a budget, which fgsm, bim, pgd and mim share."""

from collections.abc import Callable, Iterator

from torch import Tensor

from fastadv._checks import check_count
from fastadv.attacks.core import Rule, Search, repeat
from fastadv.attacks.core.checks import StepSize, check_step_size, check_threat
from fastadv.attacks.core.record import Steps
from fastadv.threat import Threat

# (search, gradient [n, ...]) -> the direction to ascend along, like the gradient. Equal ones do the same, and
# all that they remember is in `search.rows`
Direction = Callable[[Search, Tensor], Tensor]


# under a criterion: the attempts that share the steps; the first and the last step of each, in radii
LEGS, LONGEST, SHORTEST = 2, 2.0, 0.02


def ascent(
    steps: int, step_size: StepSize, random_start: bool = False, direction: Direction | None = None,
    shorten: bool = False,
) -> Rule:  # fmt: skip
    """Return `steps` steps along the gradient, or a direction made of it, each projected on ball and box.

    Where they follow the margin of a criterion by default, two attempts share them (`legs`). With `shorten`
    the steps of each then fall from two radii to a fiftieth: short ones alone end between the classes.
    """

    def step(search: Search[Steps]) -> None:
        assert direction is not None
        rows = search.rows
        look = search.gradient(rows.points)
        along = direction(search, look.gradient)
        rows.points = search.threat.step_(look.x_adv, along, search.x, rows.step_size)

    def rule(search: Search[Steps]) -> None:
        for draw, moves in legs(search, steps):

            def length(number: int, search: Search[Steps], moves: int = moves) -> None:
                factor = LONGEST * (SHORTEST / LONGEST) ** (number / moves)
                search.rows.step_size = search.threat.default_step_size(1, factor)

            search.rows.step_size = search.per_sample(step_size)
            search.rows.points = search.start(random_start, draw)
            take, name = Search.ascend if direction is None else step, ("ascent", direction)
            repeat(search, take, moves, name, before=length if shorten and search.led else None)
            search.finish(search.rows.points)

    return rule


def legs(search: Search, steps: int) -> Iterator[tuple[int, int]]:
    """Yield (number of its start, steps) of each attempt of a run: one, or two where a criterion leads.

    Of the two the first leads to the likeliest class that would meet it, the second to the next one.
    """
    if not search.led or steps < LEGS:
        yield search.restart, steps
        return
    for leg in range(LEGS):
        search.rows, number, problem = search.plan.rows(), LEGS * search.restart + leg, search.problem
        if problem.targets is None and problem.clean is not None:
            rivals = problem.criterion.rivals(problem.clean, search.y)
            search.aims = rivals[:, number % rivals.shape[1]] if rivals.shape[1] else None
        yield number, (steps + LEGS - 1 - leg) // LEGS


def step_size_for(
    threat: Threat, x: Tensor, steps: int, factor: float, step_size: StepSize | None
) -> StepSize:
    """Return the checked step size, or the default of `factor` radii over all steps, for a finite radius."""
    check_threat(threat)
    check_count("steps", steps, 0)
    if step_size is None:
        return threat.default_step_size(steps, factor)
    checked = check_step_size(step_size, x)
    if steps:
        threat.check_step_size(checked.cpu() if isinstance(checked, Tensor) else checked)
    return checked
