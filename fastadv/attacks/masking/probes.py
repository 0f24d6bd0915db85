"""Short looks at some samples that a model gets right: what each asks, and what it costs.

Sources: Pintor et al. 2022, Indicators of Attack Failure; Croce & Hein 2020.
"""

from functools import partial
from math import inf

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.pgd import pgd
from fastadv.attacks.sparse_rs import sparse_rs
from fastadv.attacks.special import edge, mixed_rows
from fastadv.attacks.special.bounded_outputs import BLENDS, OUTPUTS
from fastadv.attacks.square import square
from fastadv.engine import Prepared
from fastadv.engine.guard import bound
from fastadv.errors import NoGradientError
from fastadv.threat import Linf

LONG_STEPS = 40  # of PGD at the radius
FREE_STEPS = 20  # of PGD without a radius
QUERIES = 30  # of Square
WAY, OFF = 0.01, 0.1  # a way by this share of the margin; the gradient may be off by this share of the change
WAYS, PARTS = (0.15, 0.5), 8  # of the way to a random image; its parts, between which gradients are taken
NAMING = 100  # passes in which modules that hide their gradient are looked for
# passes of all looks at a sample that holds, and at one that is broken
SYMPTOMS, ENDS = 14, 10
BROKEN = SYMPTOMS + 2
# a search begins with a point of its own, and ends with a proof
HELD = BROKEN + 2 * FREE_STEPS + QUERIES + ENDS
# and at each of the few samples on which the gradient itself is checked
CHECKED = NAMING + 2 * len(WAYS) * (PARTS + 1) + len(BLENDS) * (2 + OUTPUTS) + 2 * (2 + len(edge.DEPTHS)) + 3


def without_gradient(classifier: Prepared, x: Tensor, y: Tensor) -> Tensor:
    """Return bool [B]: the gradient of the cross-entropy is zero in all coordinates, or not finite."""
    try:
        gradient = classifier.input_gradient(x, y, "ce")[2].flatten(1)
    except NoGradientError:
        return torch.ones(len(x), dtype=torch.bool, device="cpu")
    return ((gradient == 0).all(1) | ~gradient.isfinite().all(1)).cpu()


def wrong_gradients(classifier: Prepared, problem: Problem) -> Tensor:
    """Return bool [B]: a short way along the gradient of the margin, the loss does not change as it says."""
    x, y, wide = problem.x, problem.y, (slice(None), *[None] * (problem.x.ndim - 1))
    try:
        value, _, gradient = classifier.input_gradient(x, y, "margin")
    except NoGradientError:
        return torch.ones(len(x), dtype=torch.bool, device="cpu")
    length = gradient.flatten(1).square().sum(1)
    moved = (x + (WAY * value.abs() / length)[wide] * gradient).clamp(*problem.threat.box)
    expected = (gradient * (moved - x)).flatten(1).sum(1)
    found = losses.loss_value(classifier.verdict(moved), y, "margin") - losses.loss_value(
        classifier.verdict(x), y, "margin"
    )
    return (~((found / expected - 1).abs() <= OFF)).cpu()


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
        return classifier.input_gradient(points, problem.y[rows], "margin", None, True)[2]

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
    """Return bool [B]: PGD on the margin in the whole box succeeds."""
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
    out = search(
        classifier, problem.x, problem.y, problem.threat, queries=QUERIES, seed=seed, ids=problem.ids
    )
    return out.success.cpu()


def bounded(problem: Problem) -> bool:
    low, high = problem.threat.box
    return high - low < inf
