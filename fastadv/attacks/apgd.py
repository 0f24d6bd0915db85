"""Auto-PGD (Croce & Hein 2020; for L1, Croce & Hein 2021)."""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv._checks import check_number, check_share
from fastadv.attacks import core
from fastadv.attacks.core.task import handed
from fastadv.attacks.methods.ascent import legs
from fastadv.attacks.methods.auto_pgd import Ascents, Dense, Sparse, project, stages
from fastadv.attacks.methods.full_batches import side_by_side
from fastadv.attacks.methods.geometry import like, norm
from fastadv.attacks.methods.hyperplane import DUAL, gains, largest_others
from fastadv.attacks.methods.start import check_starts
from fastadv.errors import InputError
from fastadv.threat import Threat

TARGETED = "-targeted"
CLASSES = 9  # targets of a "-targeted" loss
LARGER = {"l1": (3.0, 2.0)}  # radii to begin with, over the radius of the threat, as published


class _Rows(Ascents):
    """With the nearest other classes [n, C]."""

    others: Tensor


@core.registered(random=True, paper="Croce and Hein 2020, 2021")
@core.tested(quick={"steps": 3}, oracle={"steps": 100})
@core.takes_common(norms=("linf", "l2", "l1"), finite=True, steps=0, restarts=1)
def apgd(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 100,
    loss: losses.Loss = "ce_sharp", classes: int | None = None, nearest: bool = False,
    starts: Tensor | None = None, restarts: int = 1, rho: float = 0.75, larger: Sequence[float] | None = None,
    stop_early: bool = True, seed: int = 0, **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by ascent with momentum and adaptive steps.

    The first step is twice the radius. At each checkpoint the step of a sample is halved, and the sample goes
    back to its strongest point, if less than `rho` of the steps since the last checkpoint raised its loss, or
    if neither the step nor the highest loss has changed since then. Under L1 each step moves the coordinates
    with the largest gradients; their number follows the sparsity of the strongest point. Steps may first go
    to balls that are `larger`, each from the projection of the strongest point of the one before.

    Args:
        threat: Linf, L2 or L1; the radius is finite, a number or [B].
        steps: moves in each restart; 0 returns the start. 100 as in the paper.
        loss: as in `pgd`; "ce" and "dlr" are the published choices. A name with "-targeted" after it leads to
            the classes with the largest logits at x, one in each round of restarts: "dlr-targeted" is APGD-T.
            A success is still any wrong class.
        classes: how many classes a "-targeted" loss goes through; None is 9; there are at most K - 1.
        nearest: let a "-targeted" loss go through the classes whose boundaries would be the nearest if the
            model were linear, of the 100 largest logits. Costs a forward pass, and a backward pass for each.
        starts: floating like x, points of the box at which the first attempt begins, after their projection
            on the ball; None is random points.
        restarts: attempts from different random points, for each class of a "-targeted" loss.
        rho: the share of successful steps, from 0 to 1, below which a step size is halved. Not for L1.
        larger: radii over that of the threat, of balls to which 30% of the steps each go first; at most
            three. None, the default, is (3, 2) under L1, as published, and none elsewhere, where (2, 1.5)
            breaks more of nets whose gradients near x lead nowhere.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.apgd(model, x, y, fa.Linf(0.3), steps=20, loss="dlr")
        >>> bool(out.success.all())
        True

    Source:
        Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks" (arXiv 2003.01690), algorithm 1; for L1, Croce and Hein 2021, "Mind the Box"
        (arXiv 2103.01208), algorithm 1; for `nearest`, Melamed et al. 2024 (arXiv 2407.02240).
    """
    check_share("rho", rho, zero=True, one=True)
    base, rounds = _targets(loss, classes, handed(model))
    if nearest and not rounds:
        raise InputError(f'nearest: expected False unless the loss ends in "{TARGETED}", got True')
    check_starts(starts, x, threat)
    before = LARGER.get(threat.norm, ()) if larger is None else tuple(larger)
    if len(before) > 3 or not all(check_number("larger", factor, 1) for factor in before):
        raise InputError(f"larger: expected at most three numbers >= 1, got {larger!r}")

    def rule(search: core.Search[_Rows]) -> None:
        if not rounds:
            for draw, moves in legs(search):
                ascend(search, [draw], moves, fresh=draw > 0)
            return

        def runs(here: core.Search[_Rows], numbers: list[int]) -> None:
            here.aims = torch.cat([search.rows.others[:, number] for number in numbers])
            draws = [number * restarts + search.restart for number in numbers]
            ascend(here, draws, search.steps, search.restart > 0)

        search.rows.others = nearest_classes(search) if nearest else _others(search)
        side_by_side(search, min(rounds, search.rows.others.shape[1]), runs)

    def ascend(search: core.Search[_Rows], draws: list[int], moves: int, fresh: bool) -> None:
        parts = stages(moves, before)
        first = parts[0][0]
        if starts is None or fresh:
            points = _random_start(search, draws, first)
        else:
            points = project(search, search.per_sample(starts).to(search.x.dtype), first)
            points = search.classifier.layout(points)
        for number, (factor, moves) in enumerate(parts):
            if number:
                points = project(search, search.rows.top, factor)
            if threat.norm == "l1":
                Sparse(search, factor, moves, len(parts) > 1).run(points)
            else:
                Dense(search, moves, rho, factor).run(points)

    # the margin of the criterion is the loss by default
    return core.run(
        model, x, y, threat, rule, rows=_Rows, steps=steps, loss=None if base == "margin" else base,
        restarts=restarts, stop_early=stop_early, seed=seed, **common,
    )  # fmt: skip


def _targets(
    loss: losses.Loss | None, classes: int | None, task: core.Task
) -> tuple[losses.Loss | None, int]:
    """Return the loss without "-targeted", and through how many classes it goes: 0 without it."""
    if loss is None:
        return None, 0
    if not isinstance(loss, str) or not loss.endswith(TARGETED):
        if classes is not None:
            raise InputError(f'classes: expected None unless the loss ends in "{TARGETED}", got {classes!r}')
        return losses.check_loss(loss), 0
    base = loss.removesuffix(TARGETED)
    if task.targets is not None:
        raise InputError(f"loss: expected {base!r} where targets are given, got {loss!r}, which chooses them")
    return losses.check_loss(base), CLASSES if classes is None else core.check_count("classes", classes, 1)


def _others(search: core.Search[_Rows]) -> Tensor:
    """Return int64 [n, K - 1]: the classes other than y by their logits at x, the largest first."""
    clean = search.problem.clean
    assert clean is not None
    others = clean.scatter(1, search.y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


def _random_start(search: core.Search[_Rows], draws: list[int], factor: float) -> Tensor:
    """Return [n, ...], noise of full length, in L1 projected on the ball; equally many by each of `draws`."""
    # the box does not clip the noise of L1 first: the largest coordinates, which are kept, would be the same
    x, threat = search.x, search.threat
    draw = rng.uniform if threat.norm == "linf" else rng.normal
    parts = zip(draws, search.ids.chunk(len(draws)), strict=True)
    noise = torch.cat([draw(x[0].numel(), rng.derive(search.seed, "apgd", i), ids) for i, ids in parts])
    noise = noise.to(x.dtype).view(x.shape)
    noise = 2 * noise - 1 if threat.norm == "linf" else noise
    if search.problem.mask is not None:
        noise = noise * search.problem.mask
    if threat.norm == "l1":
        low, high = threat.box
        noise = noise * (high - low) if high - low < torch.inf else noise
    else:
        length = norm(noise, threat.order)
        radius = torch.as_tensor(threat.radius, dtype=x.dtype, device=x.device)
        noise = noise * like(radius / length.clamp_min(torch.finfo(x.dtype).tiny), noise)
    points = x + noise
    points = points if threat.norm == "l1" else points.clamp(*threat.box)
    return search.classifier.layout(project(search, points, factor))


# The nearest classes of a linear model (MALT, Melamed et al. 2024).

CANDIDATES = 100  # classes with the largest logits, among which the nearest are looked for
CHUNK = 1 << 22  # values of the directions in which gradients are taken at once


def nearest_classes(search: core.Search) -> Tensor:
    """Return int64 [n, min(100, K - 1)]: classes other than y, those with the nearest boundary first."""
    problem, order = search.problem, DUAL[search.threat.order]
    assert problem.clean is not None
    clean, y = problem.clean, search.y
    candidates = largest_others(clean, y, CANDIDATES)

    def sizes(part: Tensor) -> Tensor:
        """Return [m, C], the norms of the gradients of the samples `part` int64 [m]."""
        mask = None if problem.mask is None else problem.mask[part]

        def size(gradient: Tensor) -> Tensor:
            masked_gradient = gradient if mask is None else gradient.where(mask, 0.0)
            return norm(masked_gradient.nan_to_num(0.0, 0.0, 0.0), order)

        ways = partial(gains, y=y[part], rivals=candidates[part])
        return search.classifier.jacobian(search.x[part], ways, size, search.problem.rows[part])[1]

    rows = max(1, CHUNK // candidates[:1].numel() // clean.shape[1])
    rows_of = torch.arange(len(y), device=y.device)
    size = torch.cat([sizes(part) for part in torch.split(rows_of, rows)])
    gap = (clean.amax(1, keepdim=True) - clean.gather(1, candidates)).to(size)
    distance = torch.where(gap > 0, gap / size, 0.0)
    return candidates.gather(1, distance.argsort(dim=1, stable=True))
