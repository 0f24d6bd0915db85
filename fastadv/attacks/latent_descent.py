"""Latent descent: a minimum-norm attack on models that explain images, such as ABS (Schott et al. 2018)."""

from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from fastadv._checks import check_choice, check_number
from fastadv.attacks import core
from fastadv.attacks.core.task import handed
from fastadv.attacks.methods.bisection import Interval
from fastadv.attacks.methods.geometry import like
from fastadv.errors import InputError
from fastadv.threat import L2, Threat

ANYWHERE = L2(torch.inf)


class _Rows(Interval):
    origin: Tensor
    share: Tensor
    walk: Tensor
    bisections: Tensor


@core.registered(
    needs="classes", kind="minimum", requires="a model with infer(x), such as ABS", paper="Schott et al. 2018"
)
@core.takes_common(through="none", steps=2, searches=0)
def latent_descent(
    model: Any, x: Tensor, y: Tensor, threat: Threat = ANYWHERE, *, steps: int = 500,
    step_size: float = 0.01, schedule: Literal["descent", "line_search"] = "descent", searches: int = 10,
    **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the nearest adversarial between x and the model's reconstruction of the likeliest wrong class.

    x is mixed with that reconstruction until the decision changes. Then `searches` bisections shorten the
    last step, and as many again move the point towards x. Where there are targets, the image moves towards
    the reconstruction of these classes.

    Args:
        model: an ABS, or another module with `infer(x)` that returns `loss` [B, K] and `reconstruction` [B,
            K, ...].
        x: floating [B, ...] inside the box.
        threat: the norm of `distance`, the box, and the radius within which a success must lie; by default L2
            of any radius. The search itself does not use the radius.
        steps: the largest number of steps, an integer >= 2; the paper has no limit.
        step_size: a number > 0, for "descent": the share of the line to the reconstruction that a step
            covers; 0.01 as in the paper.
        schedule: "descent" steps from the last point towards its reconstruction, as in the paper.
            "line_search" puts step i at the share i / (steps - 1) of the line from x to the reconstruction of
            the point before, as the authors' code does, with 51 steps.
        searches: bisections of each kind; 10 as in the paper.
        others: as in `pgd`, and so are Returns and Raises.

    Source:
        Schott et al. 2018 (arXiv 1805.09190), appendix.
    """
    check_choice("schedule", schedule, ("descent", "line_search"))
    if not check_number("step_size", step_size, 0) > 0:
        raise InputError(f"step_size: expected a share > 0 of the way, got {step_size}")
    classifier = handed(model).classifier
    if not callable(getattr(classifier.model, "infer", None)):
        raise InputError(
            "latent_descent: expected a model with infer(x), such as ABS, "
            f"got {type(classifier.model).__name__}; use another attack"
        )

    def rule(search: core.Search[_Rows]) -> None:
        rows, x = search.rows, search.x
        rows.origin, rows.share = x, torch.full((len(x),), float(step_size), device=x.device)
        rows.low = rows.high = rows.walk = x
        # the bisections that a sample has begun; 0 while it walks
        rows.bisections = torch.zeros_like(search.ids)
        for step in range(1, steps + 2 * searches + 1):
            walks = like(rows.bisections == 0, rows.origin)
            points = search.drop_leaving(torch.where(walks, rows.walk, (rows.low + rows.high) / 2))
            met, finite, image = _explain(search, points)
            _advance(search, points, met)
            walking = rows.bisections == 0
            if schedule == "descent":
                start, weight = points, rows.share
            else:
                start, weight = rows.origin, torch.full_like(rows.share, step / (steps - 1))
            rows.walk = (start + like(weight.to(start), start) * (image - start)).clamp(*search.threat.box)
            search.leave((walking & (~finite | (step >= steps))) | (rows.bisections > 2 * searches))

    def _advance(search: core.Search[_Rows], points: Tensor, met: Tensor) -> None:
        """Move the ends of the interval that holds the boundary; begin the next bisection."""
        rows = search.rows
        inside = like(met, points)
        low = torch.where(inside, rows.low, points)
        rows.high = torch.where(inside, points, rows.high)
        rows.bisections = rows.bisections + (met | (rows.bisections > 0))
        # the second bisection goes towards x
        rows.low = torch.where(like(rows.bisections == searches + 1, points), rows.origin, low)

    return core.run(model, x, y, threat, rule, rows=_Rows, minimum=True, **common)


def _explain(search: core.Search[_Rows], points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether points meet the goal, whether all is finite [n], and reconstructions of the class [n, ...]."""
    model: Any = search.classifier.model
    search.classifier.forwards += len(points)
    inferred = model.infer(points)
    look = search.judge(points, -inferred.loss)
    rivals = inferred.loss.scatter(1, search.y[:, None], torch.inf)
    goal = rivals.argmin(1) if search.targets is None else search.targets
    image = inferred.reconstruction[torch.arange(len(points), device=points.device), goal]
    finite = inferred.loss.isfinite().all(1) & image.flatten(1).isfinite().all(1)
    search.best.not_finite |= ~finite
    return look.adversarial, finite, image.nan_to_num(0.0).to(points.dtype)
