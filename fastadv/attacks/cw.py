"""The attacks of Carlini and Wagner 2017, for the least L2 or Linf distance."""

import math
from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.attacks.methods import bisection
from fastadv.attacks.methods.adam import Moments, adam
from fastadv.attacks.methods.bisection import Constants
from fastadv.attacks.methods.geometry import cosine, like, positive, width
from fastadv.threat import Threat

STEPS = {"l2": 10_000, "linf": 1_000}
# rounds of Linf, as many as there can be: the constant doubles 21 times, tau falls 53 times
SEARCHES = {"l2": 9, "linf": 75}
# numbers of the authors' code: the step of Adam; its epsilon; where the w of an edge of the box is taken
STEP, EPSILON, INSIDE = {"l2": 0.01, "linf": 0.005}, 1e-8, 1 - 1e-6
# the first constant for a box of width 1; in Linf the one at which the search ends, and the factor
FIRST, LARGEST, RAISE = {"l2": 1e-3, "linf": 1e-5}, 20.0, 2.0
# tau at the end, in widths of the box, and its factor; the objective over the constant where a search ends
LEAST_TAU, SHRINK, SOLVED = 1 / 256, 0.9, 1e-4


class TanhSpace:
    """z = center + half * tanh(w), where half is `wider` than that of the box by a share; w without one."""

    # w is infinite at an edge: that of a point is taken at the share `inside` of the way from the center

    def __init__(self, threat: Threat, wider: float = 0.0, inside: float = 1.0) -> None:
        self.low, self.high = threat.box
        self.bounded = math.isfinite(self.high - self.low)
        if self.bounded:
            self.center, self.half = (self.low + self.high) / 2, (1 + wider) * (self.high - self.low) / 2
            self.most, self.inside = inside / (1 + wider), inside

    def inverse(self, z: Tensor) -> Tensor:
        return ((z - self.center) / self.half * self.inside).atanh() if self.bounded else z.clone()

    def bend(self, w: Tensor) -> Tensor:
        """Return tanh(w), from which `points` and `steepness` follow."""
        return w.tanh() if self.bounded else w

    def points(self, bent: Tensor) -> Tensor:
        return (self.center + self.half * bent if self.bounded else bent).clamp(self.low, self.high)

    def steepness(self, bent: Tensor) -> Tensor | float:
        return self.half * (1 - bent * bent) if self.bounded else 1.0

    def keep_(self, w: Tensor) -> None:
        """Move w to where the points lie in the box."""
        if self.bounded:
            most = math.atanh(self.most)
            w.clamp_(-most, most)
        else:
            w.clamp_(self.low, self.high)


class _Rows(Moments, Constants):
    """Points in the space of `w`, their tanh, tau; steps since Adam began and with this constant; pairs."""

    w: Tensor
    bent: Tensor
    tau: Tensor
    age: Tensor
    tried: Tensor
    pairs: Tensor


@core.registered(kind="minimum", paper="Carlini and Wagner 2017")
@core.tested(quick={"steps": 20, "searches": 3}, oracle={"steps": 100, "searches": 5})
@core.takes_common(norms=("l2", "linf"), steps=1, searches=1)
def cw(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int | None = None,
    searches: int | None = None, variant: core.Variant = "fastadv", constant: float | None = None,
    step_size: float | None = None, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Find the nearest success, by descent on D(z) + constant * max(0, -margin(z)) over the z in the box.

    z = center + width * tanh(w) / 2 stays in the box; Adam moves w. For L2, D is the squared distance, and
    each of the `searches` starts at x with another constant, found by bisection. For Linf, D is the sum of
    the amounts by which displacements exceed tau, and a search continues from the last one: where it
    succeeded with a small objective, tau falls to 0.9 times the distance, and where it did not, the constant
    doubles. The authors' early end where the objective no longer falls is left out, since it depends on the
    whole batch. The margin is that of the criterion; `WrongBy(kappa)` asks for the paper's confidence kappa.

    Args:
        threat: L2 or Linf; the radius is inf or the largest distance of interest, a number or [B].
        steps: of each search, an integer >= 1. None is the paper's 10,000, in Linf the authors' 1,000.
        searches: the largest number of searches, an integer >= 1. None is 9 as in the authors' code, in Linf
            75, which is as many as there can be. So L2 takes up to 90,000 steps an image by default;
            for a first look, give steps=100, searches=3.
        constant: that of the first search, a number > 0. None is 4 times what a linear model needs for L2;
            for Linf, 0.3 over the largest gradient element. In "published" it is 0.001 in L2 and 1e-5 in
            Linf, for a box of width 1.
        step_size: the first step in the space of w, a number > 0. None fits the expected displacement; in
            "published" it is 0.01, and 0.005 in Linf.
        variant: "fastadv", or "published" for the algorithm of the paper; docs/departures.md compares them.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.cw(model, x, y, fa.L2(float("inf")), steps=50, searches=3)
        >>> bool(out.success.all()), bool((out.distance < 2).all())
        (True, True)

    Source:
        Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural Networks" (arXiv 1608.04644),
        sections VI.A and VI.C.
    """
    positive("constant", constant, 1.0)
    positive("step_size", step_size, 1.0)
    norm, edge = threat.norm, width(threat)
    steps, searches = steps or STEPS[norm], searches or SEARCHES[norm]
    if variant == "published":
        first = positive("constant", constant, FIRST[norm] * (edge**2 if norm == "l2" else edge))
        size, descent = positive("step_size", step_size, STEP[norm]), _l2 if norm == "l2" else _linf
        rule: core.Rule = descent(searches, first, size)
    else:
        rule = _ours(norm, searches, constant, step_size)
    rows = _Rows if variant == "published" else _OurRows
    return core.run(model, x, y, threat, rule, rows=rows, steps=steps, minimum=True, **common)


def _l2(searches: int, constant: float, step_size: float) -> core.Rule[_Rows]:
    """Return the L2 attack of section VI.A."""

    def rule(search: core.Search[_Rows]) -> None:
        rows, space = search.rows, TanhSpace(search.threat, inside=INSIDE)
        for _ in bisection.plain_runs(search, searches, constant):
            rows.w = space.inverse(search.x)
            for step in range(search.steps):
                bent = space.bend(rows.w)
                look = search.gradient(space.points(bent), search.problem.margin)
                rows.hit |= look.adversarial
                descent = 2 * (look.x_adv - search.x) - bisection.force(search, look) * look.gradient
                rows.w = rows.w - step_size * adam(rows, descent * space.steepness(bent), step, EPSILON)

    return rule


def _linf(searches: int, constant: float, step_size: float) -> core.Rule[_Rows]:
    """Return the Linf attack of section VI.C; each sample has its own tau and constant at each gradient."""

    def rule(search: core.Search[_Rows]) -> None:
        rows, space, edge = search.rows, TanhSpace(search.threat, inside=INSIDE), width(search.threat)
        rows.w = space.inverse(search.x)
        rows.mean, rows.square = torch.zeros_like(rows.w), torch.zeros_like(rows.w)
        rows.tau, rows.constant = search.full(edge), search.full(constant)
        rows.age, rows.tried, rows.pairs = (search.full(0.0) for _ in range(3))
        for _ in range(search.steps * searches):
            rows.bent = space.bend(rows.w)
            look = search.gradient(space.points(rows.bent), search.problem.margin)
            away = look.x_adv - search.x
            excess = (away.abs() - like(rows.tau, away)).clamp_min_(0)
            lack = (-look.loss).clamp_min(0)
            objective = excess.flatten(1).sum(1) + rows.constant * lack
            solved = look.adversarial & (objective < SOLVED * rows.constant)
            push = bisection.force(search, look) * look.gradient
            descent = (away.sign() * (excess > 0) - push) * space.steepness(rows.bent)
            # a search that has succeeded stays where it is, for the next one with a fresh Adam
            move = step_size * adam(rows, descent, rows.age, EPSILON)
            rows.w = torch.where(like(solved, away), rows.w, rows.w - move)
            rows.mean = rows.mean.masked_fill(like(solved, away), 0.0)
            rows.square = rows.square.masked_fill(like(solved, away), 0.0)
            rows.age, rows.tried = torch.where(solved, 0.0, rows.age + 1), rows.tried + 1
            failed = ~solved & (rows.tried == search.steps)
            rows.tau = torch.where(solved, SHRINK * rows.tau.minimum(look.distance), rows.tau)
            rows.constant = torch.where(failed, RAISE * rows.constant, rows.constant)
            rows.tried = torch.where(solved | failed, 0.0, rows.tried)
            rows.pairs = rows.pairs + (solved | failed)
            over = (rows.tau <= LEAST_TAU * edge) | (rows.constant >= LARGEST * edge)
            search.leave(over | (rows.pairs >= searches))

    return rule


# The fastadv variant (docs/departures.md).

# the tanh covers a box wider by this share, in which even the edges of the true box lie where it is steep
WIDER = 0.1
# the first constant, as a multiple of what a linear model needs (L2), or of that at which the steepest pixel
# gives way (Linf)
OUR_FIRST = {"l2": 4.0, "linf": 0.3}
# the first step of Adam by default, as a multiple of the expected displacement of a pixel; the largest one
# in the space of w; the last one as a share of the first
OUR_STEP = {"l2": 1.5, "linf": 0.1}
LARGEST_STEP = 0.1
LAST_STEP = 0.01
# tau as a share of the least distance, at first and at most
OUR_SHRINK, LARGEST_SHRINK = 0.95, 0.99


class _OurRows(Moments, Constants):
    """Points in the space of `w`, their tanh, by what tau shrinks, and the steps."""

    w: Tensor
    bent: Tensor
    shrink: Tensor
    step_size: Tensor


def _ours(norm: str, searches: int, constant: float | None, step_size: float | None) -> core.Rule[_OurRows]:

    def rule(search: core.Search[_OurRows]) -> None:
        rows, space = search.rows, TanhSpace(search.threat, WIDER)
        rows.shrink = search.full(OUR_SHRINK)
        for number in bisection.runs(search, searches):
            start = search.x
            if norm == "linf" and number:
                start = torch.where(like(search.best.success, start), search.best.x_adv, start)
            rows.w = space.inverse(start)
            for step in range(search.steps):
                rows.bent = space.bend(rows.w)
                look = search.gradient(space.points(rows.bent), search.problem.margin)
                if not (number or step):
                    _fit(search, look, constant, step_size)
                rows.hit |= look.adversarial
                gradient = _gradient(search, look).mul_(space.steepness(rows.bent))
                size = like(rows.step_size * cosine(step, search.steps, LAST_STEP), rows.w).to(rows.w.dtype)
                rows.w.addcmul_(adam(rows, gradient, step), size, value=-1)
                space.keep_(rows.w)
            rows.hit |= search.decide(space.points(space.bend(rows.w))).adversarial
            done = bisection.bisect(search) if norm == "l2" else _tighten(search)
            if step_size is None:
                broken = (search.best.distance).isfinite()
                larger = (3 * rows.step_size).clamp_max(LARGEST_STEP)
                rows.step_size = torch.where(broken, _fitting_step(search, search.best.distance), larger)
            search.leave(done)

    return rule


def _gradient(search: core.Search[_OurRows], look: core.GradientLook) -> Tensor:
    """Return that of what is minimized, with respect to the points."""
    rows = search.rows
    if search.threat.norm == "l2":
        pull = 2 * (look.x_adv - search.x)
    else:
        away = look.x_adv - search.x
        pull = away.sign().mul_(away.abs() > like(search.best.distance * rows.shrink, away))
    return pull.addcmul_(bisection.force(search, look).to(pull.dtype), look.gradient, value=-1)


def _fit(
    search: core.Search[_OurRows], look: core.GradientLook, constant: float | None, step_size: float | None
) -> None:
    """Set the first constant and step size of each sample, given or for a model as linear as at x."""
    rows, (low, high) = search.rows, search.threat.box
    gradient = look.gradient
    free = gradient.where(torch.where(gradient > 0, search.x < high, search.x > low), 0.0).flatten(1)
    if search.threat.norm == "l2":
        # float64, in which the squares of huge and tiny gradients have room
        size = free.double().norm(dim=1)
        length = (-look.loss / size).to(search.best.rank.dtype)
        needed = 2 * length / size
    else:
        length = -look.loss / free.abs().sum(1)
        needed = 1 / free.abs().amax(1)
    bisection.set_first(search, needed, OUR_FIRST[search.threat.norm], constant)
    rows.step_size = _fitting_step(search, length)
    if step_size is not None:
        rows.step_size = torch.full_like(rows.step_size, step_size)


def _fitting_step(search: core.Search[_OurRows], length: Tensor) -> Tensor:
    """Return [n], a step of Adam for displacements of that length."""
    norm = search.threat.norm
    per_coordinate = length / math.sqrt(search.x[0].numel()) if norm == "l2" else length
    step = OUR_STEP[norm] * per_coordinate / (width(search.threat) / 2)
    return torch.where(step.isfinite(), step, LARGEST_STEP).clamp_max(LARGEST_STEP)


def _tighten(search: core.Search[_OurRows]) -> Tensor:
    """Choose tau and the next constant for Linf; return bool [n], which samples have had enough."""
    rows, best = search.rows, search.best.distance
    idle = best.isinf() | (best > rows.before * (1 + rows.shrink) / 2)
    done: Tensor = best.isfinite() & idle & (rows.shrink > LARGEST_SHRINK)
    rows.constant = torch.where(idle, 2 * rows.constant, rows.constant)
    rows.shrink = torch.where(idle, (1 + rows.shrink) / 2, rows.shrink)
    return done
