"""Short looks at some samples that a model gets right: what each asks, and what it costs.

Sources: Pintor et al. 2022, Indicators of Attack Failure; Croce & Hein 2020.
"""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.methods.inner import call_attack
from fastadv.attacks.pgd import pgd
from fastadv.attacks.sparse_rs import sparse_rs
from fastadv.attacks.special import edge, mixed_rows
from fastadv.attacks.special.bounded_outputs import BLENDS, OUTPUTS
from fastadv.attacks.square import square
from fastadv.engine import Prepared, prepare
from fastadv.engine.copying.copier import eval_copy
from fastadv.engine.guard import bound
from fastadv.engine.module import as_module
from fastadv.errors import NoGradientError
from fastadv.threat import Linf

LONG_STEPS = 40  # of PGD at the radius
FREE_STEPS = 20  # of PGD without a radius
QUERIES = 30  # of Square
WAY, OFF = 0.01, 0.1  # a way by this share of the margin; the gradient may be off by this share of the change
# where a stand-in is looked for, of the way to a random image; the ways there, in float64 and float32; and
# the part of the change that its gradient is off by
BETWEEN, SHORT, FLOAT32, APART = 0.1, 1e-6, 1e-3, 0.2
WAYS, PARTS = (0.15, 0.5), 8  # of the way to a random image; its parts, between which gradients are taken
NAMING = 100  # passes in which modules that hide their gradient are looked for
# passes of all looks at a sample that holds, and at one that is broken
SYMPTOMS, ENDS = 14, 10
BROKEN = SYMPTOMS + 2
# a search begins with a point of its own, and ends with a proof
HELD = BROKEN + 2 * FREE_STEPS + QUERIES + ENDS
# and at each of the few samples on which the gradient itself is checked
CHECKED = NAMING + 2 * len(WAYS) * (PARTS + 1) + len(BLENDS) * (2 + OUTPUTS) + 2 * len(edge.DEPTHS) + 11


def _at(classifier: Prepared, problem: Problem, x: Tensor, direction: bool = False) -> tuple[Tensor, Tensor]:
    """Return the margin [B] at x and its gradient, zero where the mask allows no change."""
    value, _, gradient = classifier.input_gradient(x, problem.y, problem.margin, problem.targets, direction)
    return value, gradient if problem.mask is None else gradient.where(problem.mask, 0.0)


def without_gradient(
    classifier: Prepared, x: Tensor, y: Tensor, loss: losses.Loss = "ce", targets: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return bool [B]: the gradient of a loss is zero in all values that may move, or not finite."""
    try:
        gradient = classifier.input_gradient(x, y, loss, targets)[2]
    except NoGradientError:
        return torch.ones(len(x), dtype=torch.bool, device="cpu")
    gradient = (gradient if mask is None else gradient.where(mask, 0.0)).flatten(1)
    return ((gradient == 0).all(1) | ~gradient.isfinite().all(1)).cpu()


def wrong_gradients(classifier: Prepared, problem: Problem) -> Tensor:
    """Return bool [B]: a short way along the gradient of the margin, the loss does not change as it says."""
    try:
        return ~(_off(classifier, problem, WAY) <= OFF)
    except NoGradientError:
        return torch.ones(len(problem.x), dtype=torch.bool, device="cpu")


def _off(classifier: Prepared, problem: Problem, way: float) -> Tensor:
    """Return [B], by what part the change of the margin, on a `way` of it along its gradient, is another."""
    x, y, wide = problem.x, problem.y, (slice(None), *[None] * (problem.x.ndim - 1))
    value, gradient = _at(classifier, problem, x)
    length = gradient.flatten(1).square().sum(1)
    moved = (x + (way * value.abs() / length)[wide] * gradient).clamp(*problem.threat.box)
    expected = (gradient * (moved - x)).flatten(1).sum(1)
    ends = (classifier.verdict(at) for at in (moved, x))
    there, here = (losses.loss_value(each, y, problem.margin, problem.targets) for each in ends)
    return ((there - here) / expected - 1).abs().cpu()


def stands_in(classifier: Prepared, problem: Problem, seed: int) -> bool:
    """Return whether the gradient is that of something else, as where a rounding has that of the identity."""
    # At points between the samples and random images, where no kink is met but by chance, and on a way so
    # short that a step function stays: in float64 where a copy of the model computes in it.
    x, (low, high) = problem.x, problem.threat.box
    if not bounded(problem):
        return False
    chance = rng.uniform(x[0].numel(), seed, problem.ids).view(x.shape).to(x)
    between = replace(problem, x=x.lerp(low + (high - low) * chance, BETWEEN))
    module = as_module(classifier.source)
    with suppress(Exception):  # code that names a dtype, devices without float64
        if module is not None:
            wide = eval_copy(module, follow=False).double()
            exact = prepare(wide, outputs=classifier.outputs, freeze=False)
            off = _off(exact, replace(between, x=between.x.double()), SHORT)
            classifier.forwards += exact.forwards
            classifier.backwards += exact.backwards
            return bool(off.nanmedian() > APART)
    if torch.finfo(classifier.dtype or x.dtype).eps > torch.finfo(torch.float32).eps:
        return False
    try:
        return bool(_off(classifier.as_given, between, FLOAT32).nanmedian() > APART)
    except NoGradientError:
        return False


def missing_gradient(classifier: Prepared, problem: Problem, seed: int) -> float:
    """Return from 0 to 1 how much of the changes of the logits the gradient misses; 1 where there is none."""
    # On the way to a random image, the change less the gradients added up leaves something over. Where a part
    # of the gradient is missing it goes the same way in both halves: the mean product over the mean square of
    # the changes is the share. Kinks leave over little, randomness and rounding what changes its sign. The
    # least counts, of ways of two lengths, and of all samples together and their median.
    x, (low, high), shares = problem.x, problem.threat.box, []
    for draw, length in enumerate(WAYS):
        chance = rng.uniform(x[0].numel(), seed, problem.ids, 2 * draw).view(x.shape).to(x)
        way = length * (low + (high - low) * chance - x)

        def weights(logits: Tensor, draw: int = 2 * draw + 1) -> Tensor:
            return (rng.uniform(logits.shape[1], seed, problem.ids, draw) - 0.5).to(logits)[:, None]

        values, slopes = [], []
        for part in range(PARTS + 1):
            try:
                logits, gradient = classifier.jacobian(x + part / PARTS * way, weights)
            except NoGradientError:
                return 1.0
            values.append((weights(logits)[:, 0] * logits).double().sum(1))
            slopes.append((gradient[:, 0].double() * way).flatten(1).sum(1))
        value = torch.stack(values, 1)
        change = value.diff(dim=1)
        over = change - torch.stack(slopes, 1).unfold(1, 2, 1).mean(2) / PARTS
        change, over = (torch.stack([each.sum(1) for each in both.chunk(2, 1)], 1) for both in (change, over))
        size, product = change.square().mean(1), over.prod(1)
        rounding = 64 * torch.finfo(x.dtype).eps * value.abs().amax(1)
        told = product.isfinite() & (size > rounding.square())
        if not bool(told.any()):
            return 0.0
        size, product = size[told], product[told]
        shares += [float(product.sum() / size.sum()), float((product / size).median())]
    return min(max(min(shares), 0.0), 1.0)


def edge_kink(classifier: Prepared, problem: Problem) -> float:
    """Return the share of coordinates on a bound of the box whose derivative is 0 there, but not inside."""

    def gradient(points: Tensor, rows: Tensor) -> Tensor:
        classifier.asks_for(problem.ids[rows])
        return _at(classifier, problem.take(rows), points, direction=True)[1]

    x, every = problem.x, torch.arange(len(problem.x), device=problem.x.device)
    try:
        _, shares = edge.kinks(x, gradient(x, every), problem.threat.box, gradient)
    except NoGradientError:
        return 0.0
    return float(shares.mean())


def rows_mix(classifier: Prepared, problem: Problem) -> bool:
    """Return whether logits at a few rows depend on the others."""
    classifier.asks_for(problem.ids)
    logits = classifier.verdict(problem.x)
    rounding = bound(classifier.dtype) * float(logits.abs().max())
    return mixed_rows.mixes_rows(classifier, problem.x, problem.ids, logits, rounding)


def broken_without_radius(classifier: Prepared, problem: Problem, seed: int) -> Tensor:
    """Return bool [B]: PGD on the margin in the whole box finds a wrong class."""
    low, high = box = problem.threat.box
    whole = Linf(high - low, box)
    try:
        out = pgd(
            classifier, problem.x, problem.y, whole, steps=FREE_STEPS, loss="margin", seed=seed,
            ids=problem.ids,
        )  # fmt: skip
    except NoGradientError:
        return torch.zeros(len(problem.x), dtype=torch.bool, device="cpu")
    return out.success.cpu()


def broken_by_square(classifier: Prepared, problem: Problem, seed: int) -> Tensor:
    """Return bool [B]: a short random search succeeds; in L0 that is Sparse-RS."""
    # the limit of the sign was chosen with squares that shrink as AutoAttack's do
    search = sparse_rs if problem.threat.norm == "l0" else partial(square, rescale=False)
    return call_attack(search, classifier, problem, queries=QUERIES, seed=seed).success.cpu()


def bounded(problem: Problem) -> bool:
    low, high = problem.threat.box
    return high - low < inf
