"""What "strong" adds to the standard version: stages for what that left, within a budget of passes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks import core
from fastadv.attacks.auto.component import ATTACKS, Component
from fastadv.attacks.auto.run import Run
from fastadv.attacks.auto.versions import PROXIMAL, aims, ascent, proximal
from fastadv.attacks.methods.nearest_classes import CANDIDATES
from fastadv.engine import Frozen
from fastadv.errors import InputError, NoGradientError
from fastadv.threat import Threat

RESTARTS, STEPS, QUERIES = 5, 200, 5000
ALL, NEAREST = 20, 30  # up to so many other classes all are targets; of more, the nearest
LOOK = 0.3  # of the passes of "standard", which the first look of the stages may take


@dataclass(frozen=True)
class Stage:
    """A component that runs `rounds` times, each of at most `passes` passes of a sample.

    asked: the caller gave what it needs, so that it is never left out for lack of promise.
    """

    component: Component
    passes: int
    rounds: int = 1
    asked: bool = False


def stages(run: Run, bpda: Frozen | None, sources: Sequence[Frozen]) -> list[Stage]:
    """Return the stages of "strong", in their order."""
    classes, free = run.trial.clean.shape[1] - 1, aims(run)
    dlr = "dlr" if run.plain else "margin"
    eot = run.trial.frozen.options.eot

    def of_ascent(steps: int, count: int = 1) -> int:
        # a start, and the verdicts before and after
        return count * 2 * (steps + 1) * eot + 3

    found = []
    if bpda is not None:
        parts = [ascent("apgd-ce", "ce")]
        parts += [ascent("apgd-t", f"{dlr}-targeted", classes=min(9, classes))] if free else []
        for part in parts:
            attack = partial(elsewhere, other=bpda)
            count = part.arguments.get("classes", 1)
            on_other = Component(f"bpda {part.name}", attack, part.arguments)
            found.append(Stage(on_other, of_ascent(100, count) + 1, asked=True))
    if run.trial.problem.threat.norm != "linf":
        # what minimizes the norm breaks samples there that no ascent in the ball does
        found.append(Stage(proximal("pdpgd"), of_ascent(PROXIMAL)))
    found.append(Stage(ascent("restarts apgd-ce", "ce", STEPS), of_ascent(STEPS), RESTARTS))
    if free:
        few = classes <= ALL
        count, look = (classes, 0) if few else (NEAREST, min(classes, CANDIDATES) + 1)
        all_targets = ascent("targets apgd-t", f"{dlr}-targeted", classes=count, nearest=not few)
        found.append(Stage(all_targets, of_ascent(100, count) + look * eot))
    for number, source in enumerate(sources):
        name = "transfer" if len(sources) == 1 else f"transfer {number}"
        attack = partial(onward, source=source, loss=dlr)
        found.append(Stage(Component(name, attack), 2 * of_ascent(100) + 1, asked=True))
    found.append(
        Stage(Component("restarts square", "square", {"queries": QUERIES}), QUERIES * eot + 3, RESTARTS)
    )
    return found


def strengthen(run: Run, plan: Sequence[Stage], passes: float | None) -> None:
    """Run the stages on what is left: first a look, and all of them where it gives a reason or `passes` is
    given.

    The look is the first round of each stage, on those samples first that are nearest to being broken, within
    a share of what the run has taken so far. Where it breaks none and there is no warning, the stages end.
    """
    if not len(run.left):
        return run.note("strong: standard left nothing")
    spent, left = run.passes, len(run.left)
    order = _weakest(run)
    end = inf if passes is None else passes
    # the rounds that each sample had of each stage
    done = torch.zeros(len(plan), len(run.by), dtype=torch.long, device=order.device)

    def go(place: int, number: int, until: float) -> None:
        """Run one round of a stage on those that had the rounds before, as far as passes allow."""
        stage, had = plan[place], done[place]
        index = order[run.standing()[order] & (had[order] == number)]
        most = max(0.0, until - run.passes) / stage.passes
        index = index[: len(index) if most > len(index) else int(most)]
        run.component(stage.component, index, number)
        had[index] += 1

    budget = (1 + LOOK) * spent
    for place, stage in enumerate(plan):
        before, later = run.passes, sum(not one.asked for one in plan[place:])
        go(place, 0, end if stage.asked else min(end, before + (budget - before) / later))
        budget += run.passes - before if stage.asked else 0
    if passes is None and len(run.left) == left and not run.warnings:
        tried = (f"{stage.component.name} on {int(had.sum())}" for stage, had in zip(plan, done, strict=True))
        return run.note(
            f"strong: of {left} samples left, those nearest to being broken had one round of each stage "
            f"({', '.join(tried)}); it broke none, so the rest was left out; passes=math.inf runs all"
        )
    for place, stage in enumerate(plan):
        for number in range(stage.rounds):
            go(place, number, end)
    for stage, had in zip(plan, done, strict=True):
        undone = int((had[run.left] < stage.rounds).sum())
        if undone:
            run.note(
                f"{stage.component.name}: not finished on {undone} of {len(run.left)}, for want of passes"
            )


def _weakest(run: Run) -> Tensor:
    """Return int64 [n]: what is left, those first whose strongest point is nearest to a success."""
    problem, points = run.trial.problem.take(run.left), run.x_adv[run.left]
    logits = run.trial.frozen.verdict(points)
    margin = losses.loss_value(logits, problem.y, problem.margin, problem.targets)
    return run.left[margin.argsort(descending=True, stable=True)]


def elsewhere(
    model: Frozen, x: Tensor, y: Tensor, threat: Threat, *, other: Frozen, seed: int, **options: Any
) -> core.AttackResult:
    """Run APGD on another model than the one that judges; its passes are counted as the model's.

    Where the other has finite logits for none of the samples, it finds nothing.
    """
    try:
        out = ATTACKS["apgd"](other, x, y, threat=threat, seed=seed, **options)
    except InputError:
        if bool(other.verdict(x).isfinite().all(1).any()):
            raise
        common: Any = {name: options[name] for name in core.Common.__annotations__ if name in options}
        return core.run(model, x, y, threat, lambda search: None, seed=seed, **common)
    model.forwards += out.forwards
    model.backwards += out.backwards
    return out


def onward(
    model: Frozen,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    source: Frozen,
    loss: losses.Loss,
    seed: int,
    **options: Any,
) -> core.AttackResult:
    """Run APGD on a source to the end, and then on the model from the points that it found."""
    try:
        crafted = elsewhere(
            model, x, y, threat, other=source, stop_early=False, seed=rng.derive(seed, "source"),
            **options,
        )  # fmt: skip
    except NoGradientError as error:
        raise InputError("source: expected a net with gradients, got one that cuts the graph") from error
    try:
        out = ATTACKS["apgd"](model, x, y, threat, loss=loss, starts=crafted.x_adv, seed=seed, **options)
    except NoGradientError:  # the points themselves may be enough

        def rule(search: core.Search) -> None:
            search.finish(search.per_sample(crafted.x_adv))

        out = core.run(model, x, y, threat, rule, seed=seed, **options)
    spent = out.forwards + crafted.forwards, out.backwards + crafted.backwards
    return replace(out, forwards=spent[0], backwards=spent[1])
