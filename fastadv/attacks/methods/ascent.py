"""Steepest ascent with a budget, which fgsm, bim, pgd and mim share."""

from collections.abc import Callable

from torch import Tensor

from fastadv._checks import check_count
from fastadv.attacks.core import Rule, Search, repeat
from fastadv.attacks.core.problem import StepSize, check_step_size, check_threat
from fastadv.attacks.core.record import Steps
from fastadv.threat import Threat

# (search, gradient [n, ...]) -> the direction to ascend along, like the gradient. Equal ones do the same, and
# all that they remember is in `search.rows`
Direction = Callable[[Search, Tensor], Tensor]


def ascent(
    steps: int, step_size: StepSize, random_start: bool = False, direction: Direction | None = None
) -> Rule:
    """Return `steps` steps along the gradient, or a direction made of it, each projected on ball and box."""

    def step(search: Search[Steps]) -> None:
        assert direction is not None
        rows = search.rows
        look = search.gradient(rows.points)
        along = direction(search, look.gradient)
        rows.points = search.threat.step_(look.x_adv, along, search.x, rows.step_size)

    def rule(search: Search[Steps]) -> None:
        search.rows.step_size = search.per_sample(step_size)
        search.rows.points = search.start(random_start)
        repeat(search, Search.ascend if direction is None else step, steps, ("ascent", direction))
        search.finish(search.rows.points)

    return rule


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
