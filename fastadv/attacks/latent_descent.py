"""Latent descent: a minimum-norm attack on models that explain images, such as ABS (Schott et al. 2018)."""

from typing import Any, Literal

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv.attacks._problem import Problem, check_step_size, problem
from fastadv.attacks._result import AttackResult
from fastadv.attacks._trial import Trial
from fastadv.engine import Frozen, freeze
from fastadv.errors import InputError
from fastadv.threat import L2, Threat


def latent_descent(
    model: Any,
    x: Tensor,
    y: Tensor,
    threat: Threat | None = None,
    *,
    steps: int = 500,
    step_size: float = 0.01,
    schedule: Literal["descent", "line_search"] = "descent",
    searches: int = 10,
    targets: Tensor | None = None,
    ids: Tensor | None = None,
) -> AttackResult:
    """The nearest adversarial on the way from x to what the model itself takes for the likeliest wrong class.

    x is mixed with the model's reconstruction of that class until the decision changes. Then `searches`
    bisections shorten the last step, and as many again move the point towards x. Against a model with
    `binary` set, each pixel of the result finally goes back to its value in x, or to the threshold 0.5 if it
    crossed that: the model sees the same image.

    Args:
        model: an ABS, or another module with `infer(x)` giving `loss` [B, K] and `reconstruction` [B, K,
            ...].
        x: floating [B, ...] inside the box. Its precision is kept, low or not: points are rounded to it
            before the model judges them.
        y: int [B], labels.
        threat: the norm of `distance`, the box, and the radius within which a success must lie; None is L2 of
            any radius. The search itself does not use the radius.
        steps: an integer >= 2, the largest number of steps.
        step_size: a number > 0 or [B], for "descent": the share of the way to the reconstruction that a step
            covers.
        schedule: "descent" steps from the last point towards its reconstruction (Schott et al. 2018,
            appendix). "line_search" puts step i at the share i / (steps - 1) of the way from x to the
            reconstruction of the point before, as the authors' code does, with 51 steps.
        searches: bisections of each kind.
        targets: int [B]; move towards the reconstruction of these classes until the model decides for them.
        ids: int [B], not used: nothing is random here.

    Where no success was found inside the threat, x itself is returned. Raises InputError on wrong input,
    naming it.
    """
    with torch.inference_mode(False), torch.no_grad():
        check_count("steps", steps, 2)
        check_count("searches", searches, 0)
        if schedule not in ("descent", "line_search"):
            raise InputError(f"schedule: expected descent or line_search, got {schedule!r}")
        given = problem(x, y, L2(torch.inf) if threat is None else threat, targets, ids)
        share = check_step_size(step_size, len(given.x), given.x.device)
        if not isinstance(share, Tensor):
            share = torch.full((len(given.x),), share, device=given.x.device)
        if len(share) and not bool((share > 0).all()):
            raise InputError(
                f"step_size: expected shares > 0 of the way, got {step_size}; a step of zero moves nothing"
            )
        frozen = freeze(model)
        if not callable(getattr(frozen.model, "infer", None)):
            raise InputError(
                "latent_descent: expected a model with infer(x), such as ABS, "
                f"got {type(frozen.model).__name__}; use another attack"
            )
        trial = Trial(frozen, given)
        given = trial.problem
        x_adv = given.x.clone()
        not_finite = torch.zeros(len(x_adv), dtype=torch.bool, device=x_adv.device)
        if len(trial.todo):
            part = given.take(trial.todo)
            before, after, crossed, not_finite[trial.todo] = _walk(
                frozen, part, steps, share[trial.todo] if schedule == "descent" else None
            )
            part, before, after = part.take(crossed), before[crossed], after[crossed]
            for low in (before, part.x.to(after.dtype)):
                after = _bisect(frozen, part, low, after, searches)
            point = after.to(part.x.dtype)
            if getattr(frozen.model, "binary", False):
                point = _snap(part.x, point, trial.clean.dtype)
            x_adv[trial.todo[crossed]] = point
        return trial.finish(
            x_adv,
            trial.verdict(x_adv),
            "margin",
            not_finite=not_finite,
            zero_gradient=torch.zeros_like(not_finite),
            minimal=True,
        )


def _explain(frozen: Frozen, part: Problem, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """At x, rounded to the dtype of the images: whether it meets the goal [n], the reconstruction of the
    class to move to [n, ...], and whether all of that is finite [n].
    """
    frozen.forwards += len(x)
    model: Any = frozen.model
    inferred = model.infer(x.to(part.x.dtype))
    rivals = inferred.loss.scatter(1, part.y[:, None], torch.inf)
    goal = rivals.argmin(1) if part.targets is None else part.targets
    image = inferred.reconstruction[torch.arange(len(x), device=x.device), goal]
    return (
        part.met(-inferred.loss),
        image.to(x.dtype),
        inferred.loss.isfinite().all(1) & image.flatten(1).isfinite().all(1),
    )


def _walk(
    frozen: Frozen, part: Problem, steps: int, step_size: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(last point before the decision changed, first point after, whether it changed, whether a value was not
    finite).

    Points are float32 or finer: in half precision short steps would be rounded away. None for step_size means
    the line search.
    """
    origin = part.x.to(torch.promote_types(part.x.dtype, torch.float32))
    before, after = origin.clone(), origin.clone()
    crossed, not_finite = (torch.zeros(len(before), dtype=torch.bool, device=before.device) for _ in range(2))
    index = torch.arange(len(before), device=before.device)
    for step in range(1, steps + 1):
        met, image, finite = _explain(frozen, part.take(index), after[index])
        crossed[index[met]] = True
        not_finite[index[~finite]] = True
        going = finite & ~met
        index, image = index[going], image[going]
        if step == steps or not len(index):
            break
        before[index] = after[index]
        if step_size is None:
            start, share = origin[index], torch.full_like(index, step / (steps - 1), dtype=origin.dtype)
        else:
            start, share = after[index], step_size[index].to(origin.dtype)
        share = share.view(-1, *[1] * (origin.ndim - 1))
        after[index] = (start + share * (image - start)).clamp(*part.threat.box)
    return before, after, crossed, not_finite


def _bisect(frozen: Frozen, part: Problem, low: Tensor, high: Tensor, searches: int) -> Tensor:
    """Points that meet the goal, on the way from `high`, which does, to `low`, which need not."""
    for _ in range(searches if len(high) else 0):
        middle = (low + high) / 2
        met = _explain(frozen, part, middle)[0].view(-1, *[1] * (middle.ndim - 1))
        low, high = torch.where(met, low, middle), torch.where(met, middle, high)
    return high


def _snap(x: Tensor, x_adv: Tensor, model_dtype: torch.dtype) -> Tensor:
    """The nearest image to x whose pixels lie on the same sides of the threshold 0.5 as those of x_adv.

    The two sides differ in the precision of the images and in that of the model.
    """
    coarse = max(x.dtype, model_dtype, key=lambda dtype: torch.finfo(dtype).eps)
    half = torch.tensor(0.5, dtype=coarse, device=x.device)
    above = x_adv.to(coarse) >= half
    threshold = torch.where(above, half, half.nextafter(torch.zeros_like(half))).to(x.dtype)
    return torch.where((x.to(coarse) >= half) == above, x, threshold)
