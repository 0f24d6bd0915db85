"""What this library changes of the attacks of Carlini and Wagner (`cw.py`), to spend fewer passes."""

import math

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.methods import constant_search
from fastadv.attacks.methods.adam import Moments, adam
from fastadv.attacks.methods.constant_search import Constants
from fastadv.attacks.methods.geometry import cosine, like, width
from fastadv.attacks.methods.tanh_space import TanhSpace
from fastadv.attacks.methods.warm_start import begin

# the tanh covers a box wider by this share, in which even the edges of the true box lie where it is steep
WIDER = 0.1
# the first constant, as a multiple of what a linear model needs (L2), or of that at which the steepest pixel
# gives way (Linf)
FIRST = {"l2": 4.0, "linf": 0.3}
# the first step of Adam by default, as a multiple of the expected displacement of a pixel; the largest one
# in the space of w; the last one as a share of the first
STEP = {"l2": 1.5, "linf": 0.1}
LARGEST_STEP = 0.1
LAST_STEP = 0.01
# tau as a share of the least distance, at first and at most
SHRINK, LARGEST_SHRINK = 0.95, 0.99


class Rows(Moments, Constants):
    """Where runs `start`, points in the space of `w`, their tanh, the share by which tau shrinks [n], the
    length of steps [n].
    """

    start: Tensor
    w: Tensor
    bent: Tensor
    shrink: Tensor
    step_size: Tensor


def rule(
    norm: str,
    steps: int,
    searches: int,
    constant: float | None,
    step_size: float | None,
    starts: Tensor | None,
) -> core.Rule[Rows]:
    """Return the rule for this norm."""

    def rule(search: core.Search[Rows]) -> None:
        rows, space = search.rows, TanhSpace(search.threat, WIDER)
        rows.start, _ = begin(search, starts)
        constant_search.reset(search)
        rows.shrink = search.full(SHRINK)
        for number in range(searches):
            constant_search.begin_run(search)
            if norm == "linf" and number:
                rows.start = torch.where(like(search.best.success, rows.start), search.best.x_adv, rows.start)
            rows.w = space.inverse(rows.start)
            for step in range(steps):
                rows.bent = space.bend(rows.w)
                look = search.gradient(space.points(rows.bent), search.problem.margin)
                if not (number or step):
                    _fit(search, look, constant, step_size)
                rows.hit |= look.adversarial
                gradient = _gradient(search, look).mul_(space.steepness(rows.bent))
                size = like(rows.step_size * cosine(step, steps, LAST_STEP), rows.w).to(rows.w.dtype)
                rows.w.addcmul_(adam(rows, gradient, step), size, value=-1)
                space.keep_(rows.w)
            rows.hit |= search.decide(space.points(space.bend(rows.w))).adversarial
            done = constant_search.bisect(search) if norm == "l2" else _tighten(search)
            if step_size is None:
                found = (search.best.distance).isfinite()
                larger = (3 * rows.step_size).clamp_max(LARGEST_STEP)
                rows.step_size = torch.where(found, _fitting_step(search, search.best.distance), larger)
            search.leave(done)

    return rule


def _gradient(search: core.Search[Rows], look: core.GradientLook) -> Tensor:
    """Return that of what is minimized, with respect to the points."""
    rows = search.rows
    if search.threat.norm == "l2":
        pull = 2 * (look.x_adv - search.x)
    else:
        away = look.seen - search.x
        pull = away.sign().mul_(away.abs() > like(search.best.distance * rows.shrink, away))
    return pull.addcmul_(constant_search.force(search, look).to(pull.dtype), look.gradient, value=-1)


def _fit(
    search: core.Search[Rows], look: core.GradientLook, constant: float | None, step_size: float | None
) -> None:
    """Set the first constant and step size of each sample, given or for a model as linear as at x."""
    rows, (low, high) = search.rows, search.threat.box
    gradient = look.gradient
    free = gradient.where(torch.where(gradient > 0, search.x < high, search.x > low), 0.0).flatten(1)
    if search.threat.norm == "l2":
        # in float64, where the squares of huge and tiny gradients have room
        size = free.double().norm(dim=1)
        length = (-look.loss / size).to(search.best.rank.dtype)
        needed = 2 * length / size
    else:
        length = -look.loss / free.abs().sum(1)
        needed = 1 / free.abs().amax(1)
    constant_search.set_first(search, needed, FIRST[search.threat.norm], constant)
    rows.step_size = _fitting_step(search, length)
    if step_size is not None:
        rows.step_size = torch.full_like(rows.step_size, step_size)


def _fitting_step(search: core.Search[Rows], length: Tensor) -> Tensor:
    """Return [n], a step of Adam for displacements of that length."""
    norm = search.threat.norm
    each = length / math.sqrt(search.x[0].numel()) if norm == "l2" else length
    step = STEP[norm] * each / (width(search.threat) / 2)
    return torch.where(step.isfinite(), step, LARGEST_STEP).clamp_max(LARGEST_STEP)


def _tighten(search: core.Search[Rows]) -> Tensor:
    """Choose tau and the next constant for Linf; return bool [n], which samples have had enough."""
    rows, best = search.rows, search.best.distance
    idle = best.isinf() | (best > rows.before * (1 + rows.shrink) / 2)
    done: Tensor = best.isfinite() & idle & (rows.shrink > LARGEST_SHRINK)
    rows.constant = torch.where(idle, 2 * rows.constant, rows.constant)
    rows.shrink = torch.where(idle, (1 + rows.shrink) / 2, rows.shrink)
    return done
