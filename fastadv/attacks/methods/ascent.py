"""Steepest ascent with a budget, which fgsm, bim, pgd and mim share."""

from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv._waiting import waits
from fastadv.attacks.core import Rule, Search, repeat
from fastadv.attacks.core.record import TAIL, Steps
from fastadv.engine.capture import FEW, passes_alike
from fastadv.ops import largest
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize, check_step_size, check_threat

# (search, gradient [n, ...]) -> the direction to ascend along, like the gradient. Equal ones do the same, and
# all that they remember is in `search.rows`
Direction = Callable[[Search, Tensor], Tensor]


# under a criterion: the attempts that share the steps; the first and the last step of each, in radii
LEGS, LONGEST, SHORTEST = 2, 2.0, 0.02
# every how many steps the points are taken with which others are compared: most cycles have the period 2
LAGS = {"near": 4, "far": 20}
WORTH, FAR = 50, 4  # the fewest steps, and their length together in radii, which come back often enough


def ascent(
    steps: int, step_size: StepSize, random_start: bool = False, direction: Direction | None = None,
    shorten: bool = False,
) -> Rule:  # fmt: skip
    """Return `steps` steps along the gradient, or a direction made of it, each projected on ball and box.

    Where they follow the margin of a criterion by default, two attempts share them (`legs`). With `shorten`
    the steps of each then fall from two radii to a fiftieth: short ones alone end between the classes. So do
    those on a model that draws, whose noise steps of one length never average out.
    """

    def step(search: Search[Steps]) -> None:
        assert direction is not None
        rows = search.rows
        look = search.gradient(rows.points)
        along = direction(search, look.gradient)
        rows.points = search.threat.step_(look.x_adv, along, search.x, rows.step_size)

    def rule(search: Search[Steps]) -> None:
        for draw, moves in legs(search):

            def length(number: int, search: Search[Steps], moves: int = moves) -> None:
                factor = LONGEST * (SHORTEST / LONGEST) ** (number / moves)
                search.rows.step_size = search.threat.default_step_size(1, factor)

            search.rows.step_size = length_of_share(search, steps, step_size, shorten)
            search.rows.points = search.start(random_start, draw)
            take, name = Search.ascend if direction is None else step, ("ascent", direction)
            before: Callable[[int, Search[Steps]], None] | None = None
            if shorten and (search.led or search.plan.last):
                before = length
            elif direction is None and moves >= WORTH and may_return(search, moves):
                before = Returns(moves)
            repeat(search, take, moves, name, before=before)
            search.finish(search.rows.points)

    return rule


def may_return(search: Search[Steps], moves: int) -> bool:
    """Return whether samples may leave at each step, and go far, by points that tell the next ones."""
    plan = search.plan
    if search.led or callable(plan.loss) or plan.gradient or waits(search.x.device):
        return False
    sizes = (torch.as_tensor(size, device="cpu") for size in (search.rows.step_size, search.threat.radius))
    step_size, radius = (size.flatten() for size in sizes)
    return bool((moves * step_size >= FAR * radius).any())


class Returns:
    """Ends the run of samples whose points come back, looked for before each second of so many `moves`.

    All that follows repeats what was judged (Doldo et al. 2025, arXiv 2503.19347), unless the model draws,
    writes, or mixes the rows of a batch, as passes show where a first point comes back.
    """

    def __init__(self, moves: int) -> None:
        self.moves = moves
        self._repeats: bool | None = None  # whether the model answers a point as before, once it was asked

    def __call__(self, number: int, search: Search[Steps]) -> None:
        if number % 2:
            return
        rows, left, same = search.rows, self.moves - number, torch.zeros_like(search.best.success)
        for name, lag in LAGS.items():
            if number:
                same |= largest(rows.points - getattr(rows, name)) == 0
            if number % lag == 0:
                setattr(rows, name, rows.points.clone())
        # without finite logits a sample goes on by an earlier answer, which its point does not tell
        same &= ~search.best.not_finite
        if left < TAIL or not bool(same.any()):
            return
        if self._repeats is None:
            self._repeats = answers_alike(search)
        if self._repeats:
            search.best.note_cycle(same, left)
            search.leave(same)


def answers_alike(search: Search[Steps]) -> bool:
    """Return whether parts of a batch get the same answers and leave no trace; False of a function."""
    points, modules = search.rows.points, search.classifier.parts
    if not modules:
        return False
    # two at least: the last one's mates may have left since its point was there
    rows = torch.arange(min(max(len(points) // 2, 2), FEW), device=points.device) % len(points)
    part = search.at(search.state.take(rows))
    part.met = True

    def answer(at: Tensor) -> Tensor:
        _, logits, gradient = part.input_gradient(at, search.plan.loss)
        return torch.cat([logits, gradient.flatten(1).to(logits)], 1)

    with suppress(Exception):  # models of one batch size raise anything
        return passes_alike(modules[0], answer, points[rows])
    return False


def length_of_share(search: Search, steps: int, step_size: StepSize, default: bool) -> StepSize:
    """Return the step size of these samples; a `default` one of all `steps` grows where a run has fewer."""
    size = search.per_sample(step_size)
    return size * (steps / search.steps) if default and search.steps < steps else size


def legs(search: Search) -> Iterator[tuple[int, int]]:
    """Yield (number of its start, steps) of each attempt of a run: one, or two where a criterion leads.

    Of the two the first leads to the likeliest class that would meet it, the second to the next one.
    """
    steps = search.steps
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
    checked, still = check_step_size(step_size, x), threat.radius == 0  # there any step will do
    if isinstance(checked, Tensor):
        idle = (checked == 0) & torch.as_tensor(still, device=checked.device)
        checked = checked.masked_fill(idle, 1.0)
    elif checked == 0 and still is True:
        checked = 1.0
    if steps:
        threat.check_step_size(checked.cpu() if isinstance(checked, Tensor) else checked)
    return checked
