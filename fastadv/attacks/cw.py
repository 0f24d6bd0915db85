"""The attacks of Carlini and Wagner 2017, for the least L2 or Linf distance."""

import math
from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.methods import constant_search
from fastadv.attacks.methods.adam import Moments, adam
from fastadv.attacks.methods.constant_search import Constants
from fastadv.attacks.methods.geometry import cosine, like, positive, width
from fastadv.threat import Threat

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


class _Rows(Moments, Constants):
    """Points in the space of `w`, their tanh, the share by which tau shrinks [n], the length of steps [n]."""

    w: Tensor
    bent: Tensor
    shrink: Tensor
    step_size: Tensor


@core.takes_common(norms=("l2", "linf"), steps=1, searches=1)
def cw(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    searches: int = 5,
    constant: float | None = None,
    step_size: float | None = None,
    **common: Unpack[core.Common],
) -> core.AttackResult:
    """Find the nearest success, by descent on D(z) + constant * max(0, -margin(z)) over the z in the box.

    z = center + width * tanh(w) keeps to the box; Adam moves w. For L2, D is the squared distance, and each
    of the `searches` starts at x with another constant, found by bisection (Carlini and Wagner 2017, section
    VI.A). For Linf, D is the sum of the amounts by which displacements exceed tau (section VI.C). Each search
    starts at the nearest success, and tau stays a little below its distance: by 5 % at first, and by half as
    much after each search without gain, which also doubles the constant.

    Unlike in the authors' code, pixels at the edges of the box move as easily as others, the first
    constant and the step size fit the model's gradient at x, the step size falls during a search, and a
    sample leaves when a search has brought it nothing.

    Args:
        steps: of each search, an integer >= 1.
        searches: an integer >= 1, the largest number of searches.
        constant: a number > 0, that of the first search. None is 4 times what a linear model needs for L2;
            for Linf, 0.3 over the largest gradient element.
        step_size: a number > 0, the first step in the space of w. None fits the expected displacement.

    The margin is that of the criterion; `WrongBy(kappa)` asks for the confidence kappa of the paper.
    """
    positive("constant", constant, 1.0)
    positive("step_size", step_size, 1.0)
    rule = _rule(threat.norm, steps, searches, constant, step_size)
    return core.run(model, x, y, threat, rule, rows=_Rows, minimum=True, **common)


def _rule(norm: str, steps: int, searches: int, constant: float | None, step_size: float | None) -> core.Rule:
    def rule(search: core.Search[_Rows]) -> None:
        rows, space = search.rows, _Space(search.threat)
        constant_search.reset(search)
        rows.shrink = search.full(SHRINK)
        for number in range(searches):
            constant_search.begin_run(search)
            rows.w = space.inverse(search.x if norm == "l2" else search.best.x_adv)
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


def _gradient(search: core.Search[_Rows], look: core.GradientLook) -> Tensor:
    """Return that of what is minimized, with respect to the points."""
    rows = search.rows
    if search.threat.norm == "l2":
        pull = 2 * (look.x_adv - search.x)
    else:
        away = look.seen - search.x
        pull = away.sign().mul_(away.abs() > like(search.best.distance * rows.shrink, away))
    return pull.addcmul_(constant_search.force(search, look).to(pull.dtype), look.gradient, value=-1)


def _fit(
    search: core.Search[_Rows], look: core.GradientLook, constant: float | None, step_size: float | None
) -> None:
    """Set the first constant and step size of each sample, given or for a model as linear as at x."""
    rows, (low, high) = search.rows, search.threat.box
    gradient = look.gradient
    free = gradient.where(torch.where(gradient > 0, search.x < high, search.x > low), 0.0).flatten(1)
    if search.threat.norm == "l2":
        length = -look.loss / free.norm(dim=1)
        needed = 2 * length / free.norm(dim=1)
    else:
        length = -look.loss / free.abs().sum(1)
        needed = 1 / free.abs().amax(1)
    constant_search.set_first(search, needed, FIRST[search.threat.norm], constant)
    rows.step_size = _fitting_step(search, length)
    if step_size is not None:
        rows.step_size = torch.full_like(rows.step_size, step_size)


def _fitting_step(search: core.Search[_Rows], length: Tensor) -> Tensor:
    """Return [n], a step of Adam for displacements of that length."""
    norm = search.threat.norm
    each = length / math.sqrt(search.x[0].numel()) if norm == "l2" else length
    step = STEP[norm] * each / (width(search.threat) / 2)
    return torch.where(step.isfinite(), step, LARGEST_STEP).clamp_max(LARGEST_STEP)


def _tighten(search: core.Search[_Rows]) -> Tensor:
    """Choose tau and the next constant for Linf; return bool [n], which samples have had enough."""
    rows, best = search.rows, search.best.distance
    idle = best.isinf() | (best > rows.before * (1 + rows.shrink) / 2)
    done: Tensor = best.isfinite() & idle & (rows.shrink > LARGEST_SHRINK)
    rows.constant = torch.where(idle, 2 * rows.constant, rows.constant)
    rows.shrink = torch.where(idle, (1 + rows.shrink) / 2, rows.shrink)
    return done


class _Space:
    """The box as the image of all w: z = center + half * tanh(w), where half is WIDER than that of the box.

    Where an edge is infinite, z = w.
    """

    def __init__(self, threat: Threat) -> None:
        self.low, self.high = threat.box
        self.bounded = math.isfinite(self.high - self.low)
        if self.bounded:
            self.center, self.half = (self.low + self.high) / 2, (1 + WIDER) * (self.high - self.low) / 2
            self.most = math.atanh(1 / (1 + WIDER))

    def inverse(self, z: Tensor) -> Tensor:
        """Return the w of points z."""
        return ((z - self.center) / self.half).atanh() if self.bounded else z.clone()

    def bend(self, w: Tensor) -> Tensor:
        """Return tanh(w), from which `points` and `steepness` follow."""
        return w.tanh() if self.bounded else w

    def points(self, bent: Tensor) -> Tensor:
        """Return the points of the box."""
        return (self.center + self.half * bent if self.bounded else bent).clamp(self.low, self.high)

    def steepness(self, bent: Tensor) -> Tensor | float:
        """Return the derivative of the points with respect to w, up to a factor."""
        return 1 - bent * bent if self.bounded else 1.0

    def keep_(self, w: Tensor) -> None:
        """Move w to where the points lie in the box."""
        if self.bounded:
            w.clamp_(-self.most, self.most)
        else:
            w.clamp_(self.low, self.high)
