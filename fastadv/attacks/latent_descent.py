"""Latent descent: the minimum-norm attack that walks towards what the model itself takes for the next likely class (Schott et al. 2018)."""

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

# the largest float32 below the threshold of binary models
BELOW = 0.49999997


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
    """Mix x [B, ...] with the reconstruction of the likeliest wrong class until the decision changes, and then come back as near as it allows.

    With "descent" (Schott et al. 2018, appendix) each of at most `steps` steps goes the share `step_size` from the last point to the
    reconstruction found there. With "line_search" (the authors' code; they take 51 steps) step i goes the share i / (steps - 1) from x to the
    reconstruction found at step i - 1. Then `searches` bisections inside the last step, and as many between the point found and x. Against a model
    with `binary` set, every pixel of the result then goes back to x, or to the threshold 0.5 where it crossed it: the model sees the same image.

    model: an ABS, or another module with `infer(x)` giving `loss` [B, K] and `reconstruction` [B, K, ...]. threat: the norm of `distance`, the box,
    and a radius within which a success must lie; by default L2 of any radius. x itself is returned where nothing was found.
    """
    with torch.inference_mode(False), torch.no_grad():
        check_count("steps", steps, 2)
        check_count("searches", searches, 0)
        check_step_size(step_size, len(x), x.device)
        if schedule not in ("descent", "line_search"):
            raise InputError(f"schedule: expected descent or line_search, got {schedule!r}")
        given = problem(x, y, L2(float("inf")) if threat is None else threat, targets, ids)
        frozen = freeze(model)
        if not callable(getattr(frozen.model, "infer", None)):
            raise InputError(
                f"latent_descent: expected a model with infer(x), such as ABS, got {type(frozen.model).__name__}; use another attack"
            )
        trial = Trial(frozen, given)
        given = trial.problem
        x_adv = given.x.clone()
        bad = torch.zeros(len(x_adv), dtype=torch.bool, device=x_adv.device)
        if len(trial.todo):
            part = given.take(trial.todo)
            inside, outside, crossed, bad[trial.todo] = _walk(
                frozen, part, steps, step_size if schedule == "descent" else None
            )
            part, index, inside, outside = (
                part.take(crossed),
                trial.todo[crossed],
                inside[crossed],
                outside[crossed],
            )
            for low in (inside, part.x):
                outside = _bisect(frozen, part, low, outside, searches)
            x_adv[index] = _snap(part.x, outside) if getattr(frozen.model, "binary", False) else outside
        return trial.finish(x_adv, "margin", bad, torch.zeros_like(bad))


def _look(frozen: Frozen, part: Problem, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(whether x meets the goal [n], the reconstruction of the class to go to [n, ...], whether all was finite [n])."""
    frozen.forwards += len(x)
    model: Any = frozen.model
    found = model.infer(x)
    rivals = found.loss.scatter(1, part.y[:, None], torch.inf)
    goal = rivals.argmin(1) if part.targets is None else part.targets
    image = found.reconstruction[torch.arange(len(x), device=x.device), goal]
    return (
        part.met(-found.loss),
        image.to(x.dtype),
        found.loss.isfinite().all(1) & image.flatten(1).isfinite().all(1),
    )


def _walk(
    frozen: Frozen, part: Problem, steps: int, step_size: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(last point before the decision changed, first after it, where it did, where something was not finite); without step_size, a line search."""
    before, after = part.x.clone(), part.x.clone()
    crossed, bad = (torch.zeros(len(before), dtype=torch.bool, device=before.device) for _ in range(2))
    index = torch.arange(len(before), device=before.device)
    for step in range(1, steps + 1):
        met, image, finite = _look(frozen, part.take(index), after[index])
        crossed[index[met]] = True
        bad[index[~finite]] = True
        going = finite & ~met
        index, image = index[going], image[going]
        if step == steps or not len(index):
            break
        before[index] = after[index]
        share, origin = (
            (step / (steps - 1), part.x[index]) if step_size is None else (step_size, after[index])
        )
        after[index] = (origin + share * (image - origin)).clamp(*part.threat.box)
    return before, after, crossed, bad


def _bisect(frozen: Frozen, part: Problem, low: Tensor, high: Tensor, searches: int) -> Tensor:
    """Points that meet the goal on the way from `high`, which do, to `low`, which need not."""
    for _ in range(searches if len(high) else 0):
        middle = (low + high) / 2
        met = _look(frozen, part, middle)[0].view(-1, *[1] * (middle.ndim - 1))
        low, high = torch.where(met, low, middle), torch.where(met, middle, high)
    return high


def _snap(x: Tensor, x_adv: Tensor) -> Tensor:
    """The nearest image to x that is x_adv on either side of the threshold 0.5."""
    threshold = torch.where(x_adv >= 0.5, 0.5, BELOW).to(x.dtype)
    return torch.where((x >= 0.5) == (x_adv >= 0.5), x, threshold)
