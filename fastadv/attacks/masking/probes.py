"""Short looks at some samples that a model gets right: what each asks, and what it costs.

Sources: Pintor et al. 2022, Indicators of Attack Failure; Croce & Hein 2020.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks.core.criterion import WRONG, Unless
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import clamped_input
from fastadv.attacks.pgd import pgd
from fastadv.attacks.sparse_rs import sparse_rs
from fastadv.attacks.square import square
from fastadv.engine import prepare
from fastadv.engine.copy import copied
from fastadv.engine.guard import bound, near
from fastadv.engine.module import as_module
from fastadv.errors import NoGradientError
from fastadv.threat import Linf

LONG_STEPS = 40  # of PGD at the radius
FREE_STEPS = 20  # of PGD without a radius
QUERIES = 30  # of Square
DRAWS = 4  # of a randomized model, in any of which what PGD found may be broken
WAY, OFF = 0.01, 0.1  # a way by this share of the margin; the gradient may be off by this share of the change
BETWEEN = 0.1  # of the way to a random image, where a stand-in is looked for
SHORT, FLOAT32 = 1e-6, 1e-3  # ways from there by these shares of the margin, in float64 and in float32
APART = 0.2  # part of the change, by which the gradient of a stand-in is off
WAYS, PARTS = (0.15, 0.5), 8  # of the way to a random image; its parts, between which gradients are taken
HALVINGS, STEP = 10, 0.05  # of a way to where a model abstains; part of a change that a step makes there
NAMING = 90  # passes in which modules that hide their gradient are looked for
SYMPTOMS, ENDS = 14, 10  # passes of symptoms; a search begins with a point of its own, and ends with a proof
# Passes of all looks at a sample that is broken, at one that holds, and at one whose gradient is checked.
BROKEN = SYMPTOMS + 2
HELD = BROKEN + 2 * FREE_STEPS + QUERIES + ENDS
# Times as many where the model is randomized: PGD without a radius is denied there, and searches again.
AGAIN = 1 + (2 * FREE_STEPS + QUERIES + DRAWS) / HELD
ABSTAINS = FREE_STEPS + 2 * (HALVINGS + 2) + ENDS  # at one that holds, where the model may abstain
CHECKED = NAMING + clamped_input.PASSES + 2 * len(WAYS) * (PARTS + 1) + 11


def _at(problem: Task, x: Tensor, direction: bool = False) -> tuple[Tensor, Tensor]:
    """Return the margin [B] at x and its gradient, zero where the mask allows no change."""
    value, _, gradient = problem.classifier.input_gradient(
        x, problem.y, problem.margin, problem.targets, direction, problem.rows
    )
    return value, gradient if problem.mask is None else gradient.where(problem.mask, 0.0)


def cut(problem: Task) -> bool:
    """Return whether no gradient leads from the logits to x."""
    try:
        _at(problem, problem.x)
    except NoGradientError:
        return True
    return False


def without_gradient(problem: Task, loss: losses.Loss = "ce") -> Tensor:
    """Return bool [B]: the gradient of a loss is zero in all values that may move, or not finite."""
    x, mask = problem.x, problem.mask
    try:
        about = problem.y, loss, problem.targets, False, problem.rows
        gradient = problem.classifier.input_gradient(x, *about)[2]
    except NoGradientError:
        return torch.ones(len(x), dtype=torch.bool, device="cpu")
    gradient = (gradient if mask is None else gradient.where(mask, 0.0)).flatten(1)
    return ((gradient == 0).all(1) | ~gradient.isfinite().all(1)).cpu()


def wrong_gradients(problem: Task) -> Tensor:
    """Return bool [B]: a short way along the gradient of the margin, the loss does not change as it says."""
    try:
        return ~(_off(problem, WAY) <= OFF)
    except NoGradientError:
        return torch.ones(len(problem.x), dtype=torch.bool, device="cpu")


def _off(problem: Task, way: float) -> Tensor:
    """Return [B], by what part the change of the margin, on a `way` of it along its gradient, is another."""
    x = problem.x
    value, gradient = _at(problem, x)
    step = way * value.abs() / gradient.flatten(1).square().sum(1)
    moved = (x + step.view(-1, *[1] * (x.ndim - 1)) * gradient).clamp(*problem.threat.box)
    expected = (gradient * (moved - x)).flatten(1).sum(1)
    there, here = (
        losses.loss_value(
            problem.classifier.verdict(point, problem.rows), problem.y, problem.margin, problem.targets
        )
        for point in (moved, x)
    )
    return ((there - here) / expected - 1).abs().cpu()


def _to_random_images(problem: Task, seed: int, draw: int = 0) -> Tensor:
    """Return [B, ...], the ways from the samples to random images."""
    x, (low, high) = problem.x, problem.threat.box
    chance = rng.uniform(x[0].numel(), seed, problem.ids, draw).view(x.shape).to(x)
    return low + (high - low) * chance - x


def stands_in(problem: Task, seed: int) -> bool:
    """Return whether the gradient is that of something else, as where a rounding has that of the identity."""
    # Between the samples and random images a kink is met by chance alone, and a step function stays on a way
    # that is short enough: in float64 where a copy of the model computes in it.
    if not bounded(problem):
        return False
    between = replace(problem, x=problem.x + BETWEEN * _to_random_images(problem, seed))
    classifier = problem.classifier
    module = as_module(classifier.source)
    with suppress(Exception):  # code that names a dtype, devices without float64
        if module is not None:
            wide = copied(module).double()
            exact = prepare(wide, outputs=classifier.outputs, freeze=False)
            off = _off(replace(between, classifier=exact, x=between.x.double()), SHORT)
            classifier.forwards += exact.forwards
            classifier.backwards += exact.backwards
            return bool(off.nanmedian() > APART)
    if torch.finfo(classifier.dtype or problem.x.dtype).eps > torch.finfo(torch.float32).eps:
        return False
    try:
        return bool(_off(replace(between, classifier=classifier.as_given), FLOAT32).nanmedian() > APART)
    except NoGradientError:
        return False


def missing_gradient(problem: Task, seed: int) -> float:
    """Return from 0 to 1 how much of the changes of the logits the gradient misses; 1 where there is none."""
    # The change on the way to a random image, less the gradients added up, leaves a rest. Where a part of the
    # gradient is missing it has one sign in both halves: the mean product over the mean square of the
    # changes is the share. Kinks leave little, randomness and rounding a rest that changes its sign. The
    # least counts, of ways of two lengths, and of all samples together and their median.
    shares = [1.0]
    for draw, length in enumerate(WAYS):
        way = length * _to_random_images(problem, seed, 2 * draw)
        try:
            value, slope = _on_the_way(problem, way, seed, 2 * draw + 1)
        except NoGradientError:
            return 1.0
        change = value.diff(dim=1)
        over = change - slope.unfold(1, 2, 1).mean(2) / PARTS
        change, over = (torch.stack([half.sum(1) for half in part.chunk(2, 1)], 1) for part in (change, over))
        size, product = change.square().mean(1), over.prod(1)
        rounding = 64 * torch.finfo(problem.x.dtype).eps * value.abs().amax(1)
        clear = product.isfinite() & (size > rounding.square())
        if not bool(clear.any()):
            return 0.0
        size, product = size[clear], product[clear]
        shares += [float(product.sum() / size.sum()), float((product / size).median())]
    return max(min(shares), 0.0)


def _on_the_way(problem: Task, way: Tensor, seed: int, draw: int) -> tuple[Tensor, Tensor]:
    """Return [B, PARTS + 1], a random sum of the logits at the parts of a way, and its slope there."""

    def weights(logits: Tensor) -> Tensor:
        return (rng.uniform(logits.shape[1], seed, problem.ids, draw) - 0.5).to(logits)[:, None]

    values, slopes = [], []
    for part in range(PARTS + 1):
        points = problem.x + part / PARTS * way
        logits, gradient = problem.classifier.jacobian(points, weights, rows=problem.rows)
        values.append((weights(logits)[:, 0] * logits).double().sum(1))
        slopes.append((gradient[:, 0].double() * way).flatten(1).sum(1))
    return torch.stack(values, 1), torch.stack(slopes, 1)


def rows_mix(problem: Task) -> bool:
    """Return whether logits at a few rows depend on the others."""
    classifier, last = problem.classifier, slice(max(len(problem.x) - 2, 1), None)  # in other places alone
    logits, few = classifier.verdict(problem.x, problem.rows), (problem.x[last], problem.rows[last])
    rounding = bound(classifier.dtype) * float(logits[:, near(logits)].abs().max())

    def apart(others: Tensor) -> bool:
        finite = alone.isfinite().all(1) & others.isfinite().all(1)
        return bool(((alone.double() - others.double()).abs()[finite] > rounding).any())

    try:
        alone = classifier.verdict(*few)
        return apart(logits[last]) and not any(apart(classifier.verdict(*few)) for _ in range(4))
    except Exception:  # models of one batch size raise anything
        return False


def broken_without_radius(problem: Task, seed: int, draws: int = 0) -> Tensor:
    """Return bool [B]: PGD in the whole box finds a wrong class, rejected or not, in this or more draws."""
    low, high = box = problem.threat.box
    goal = problem.criterion if isinstance(problem.criterion, Unless) else WRONG
    whole = replace(problem, threat=Linf(high - low, box), targets=None, criterion=goal, mask=None)
    try:
        out = pgd.on(whole, steps=FREE_STEPS, loss=whole.leading, seed=seed, stop_early=not draws)
    except NoGradientError:
        return torch.zeros(len(problem.x), dtype=torch.bool, device="cpu")
    broken: Tensor = out.success | (out.loss > 0) & (goal is not WRONG)
    for _ in range(draws):
        broken |= whole.met(whole.classifier.verdict(out.x_adv, whole.rows))
    return broken.cpu()


def abstains_by_step(problem: Task, seed: int) -> bool:
    """Return whether the model leaves the label, or abstains, by a step, on ways to what PGD prefers."""

    def abstains(logits: Tensor) -> Tensor:
        place = torch.full_like(problem.y, vars(problem.criterion)["reject"] % logits.shape[1])
        return WRONG.margin(logits, place, place)

    def jumps(lead: Callable[[Tensor], Tensor]) -> bool:
        near, far = problem.x, out.x_adv
        low, high = (lead(problem.classifier.verdict(point, problem.rows)) for point in (near, far))
        left, whole = high > 0, high - low
        for _ in range(HALVINGS):
            now = lead(problem.classifier.verdict(middle := (near + far) / 2, problem.rows))
            images = (now > 0).view(-1, *[1] * (far.ndim - 1))
            near, far = near.where(images, middle), middle.where(images, far)
            low, high = low.where(now > 0, now), now.where(now > 0, high)
        return bool((high - low)[left].sum() > STEP * whole[left].sum())

    try:
        out = pgd.on(problem, steps=FREE_STEPS // 2, loss=problem.leading, seed=seed)
    except NoGradientError:
        return False
    return jumps(abstains) or jumps(lambda logits: WRONG.margin(logits, problem.y, None))


def broken_by_square(problem: Task, seed: int) -> Tensor:
    """Return bool [B]: a short random search succeeds; in L0 that is Sparse-RS."""
    # Squares that shrink as AutoAttack's do, with which the limit of the sign was chosen.
    search = sparse_rs.on if problem.threat.norm == "l0" else partial(square.on, rescale=False)
    success: Tensor = search(problem, queries=QUERIES, seed=seed).success.cpu()
    return success


def broken_by_steps(problem: Task, seed: int) -> Tensor:
    """Return bool [B]: PGD of as many passes succeeds."""
    try:
        success: Tensor = pgd.on(problem, steps=QUERIES // 2, seed=seed).success.cpu()
    except NoGradientError:
        return torch.zeros(len(problem.x), dtype=torch.bool, device="cpu")
    return success


def bounded(problem: Task) -> bool:
    low, high = problem.threat.box
    return high - low < inf
