"""What an attack of the caller's own returns counts where its threat and the model as given confirm it."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf, nan
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.checks import check_mask
from fastadv.attacks.core.criterion import ANY_WRONG, Criterion, Goal
from fastadv.attacks.core.points import like
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.core.task import Task
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.ops._rows import check_like
from fastadv.text import several
from fastadv.threat import Named, Threat, Through
from fastadv.threat.base import box_in, unrounded
from fastadv.threat.checks import from_bytes

CLAIMS = "claims: "  # how the flag begins that counts what is no success
TOLD = "zero_gradient", "flags", "parameters"  # what a result that is no AttackResult may tell
UNTOLD = "its threat is not known, so that any point in the box is a success; pass threat="


@dataclass(eq=False)
class Within:
    """An attack that takes no threat, whose points are judged in that of the evaluation."""

    func: Callable[..., Any]
    threat: Threat

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.func(*args, **options)

    @property
    def keywords(self) -> dict[str, Any]:
        return {"within": self.threat}

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.func, follow_wrapped=False)  # what it can be called with


def is_own(attack: Any) -> bool:
    """Return whether it is none of the library's, which prove what they return."""
    while isinstance(attack, partial | Within):
        attack = attack.func
    kind = attack if hasattr(attack, "__qualname__") else type(attack)
    home = str(kind.__module__)  # also of what wraps one of ours, which is not found there
    return not (
        home.startswith("fastadv.") and getattr(sys.modules.get(home), kind.__qualname__, None) is kind
    )


def claim_flags(claims: Counter[str]) -> tuple[str, ...]:
    """Return the flag that counts the claimed successes that are none, where there are any."""
    denied, claimed = claims["denied"], several(claims["claimed"], "point")
    are = "is" if denied == 1 else "are"
    why = "outside of the threat, or denied by the model as given"
    return (f"{CLAIMS}{denied} of {claimed} of the attack {are} no success: {why}",) * bool(denied)


def posed(
    bound: Callable[[str], Any], out: Any, model: Prepared, batch: Any, judged: Criterion,
    box: tuple[float, float],
) -> Task:  # fmt: skip
    """Return what was asked of an attack, by what is bound to it; a result may tell its threat."""
    x = batch.x
    threats = bound("threat"), getattr(out, "threat", None), bound("within"), Named(inf, box, name="the box")
    criterion = (judged.outputs == "classes" and bound("criterion")) or judged
    targets, mask = bound("targets"), bound("mask")
    if isinstance(targets, int):
        targets = torch.full_like(batch.y, targets)
    if isinstance(targets, Tensor):
        targets = criterion.labels("targets", targets, len(x), x.device)
    return Task(
        model.of(x, batch.ids), x, batch.ids, torch.arange(len(x), device=x.device), None, y=batch.y,
        threat=next(one for one in threats if isinstance(one, Threat)),
        targets=targets if isinstance(targets, Tensor) else None,
        criterion=criterion.meant_by(model.model), mask=mask if isinstance(mask, Tensor) else None,
    )  # fmt: skip


def checked(
    name: str, out: Any, problem: Task, right: Tensor, claims: Counter[str],
    spent: tuple[int, int] = (0, 0),
) -> AttackResult:  # fmt: skip
    """Return the result of an attack, of whose successes among `right` bool [B] those count that are proved.

    A success is proved where its point is in threat, box and mask, up to rounding, and meets the criterion by
    the model as given. A tensor is x_adv, which claims what it proves. Distances are measured; `spent` are
    the passes where the result tells none.
    """
    x, threat, targets = problem.x, problem.threat, problem.targets
    points, success = getattr(out, "x_adv", out), getattr(out, "success", None)
    claimed = right if success is None else success
    for part, value, pattern in (("x_adv", points, x), ("success", claimed, right)):
        if not isinstance(value, Tensor) or value.shape != pattern.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            shape = tuple(pattern.shape)
            raise InputError(
                f"{name}: expected an AttackResult, or x_adv, with {part} of shape {shape}, got {got}"
            )
    points = from_bytes(points.detach().to(x.device), threat.box)
    inside, x_adv, distance = _placed(problem, points, getattr(out, "parameters", None))
    claimed = right & claimed.to(x.device).bool()
    logits = problem.classifier.verdict(x_adv, problem.rows)
    proved = claimed & inside & problem.met(logits)
    if targets is not None:  # of the target's own class no sample is led there
        proved &= (targets != problem.y).reshape(len(x), -1).any(1)
    claims["claimed"] += int(claimed.sum())
    claims["denied"] += int((claimed & ~(inside if success is None else proved)).sum())
    failed = ~(points.flatten(1).isfinite().all(1) & logits.isfinite().all(1))
    failed |= getattr(out, "status", Status.HELD) == Status.FAILED
    status = torch.where(failed, int(Status.FAILED), int(Status.HELD)).masked_fill(proved, Status.BROKEN)
    # a success at x itself, where the model was right: it gives two answers
    same = proved & (x_adv == x).flatten(1).all(1)
    goal = Goal(problem.criterion, targets, problem.mask)
    values: dict[str, Any] = {
        "x_adv": x_adv, "success": proved | ~right, "correct": right,
        "status": status.masked_fill(~right | same, Status.ALREADY_WRONG),
        "distance": distance.float().masked_fill(~proved, inf).masked_fill(~right, 0.0),
        "threat": None if type(threat) is Named else threat,
        "goal": getattr(out, "goal", ANY_WRONG) if problem.plain else goal,
    }  # fmt: skip
    if isinstance(out, AttackResult):
        return replace(out, **values)
    told = {part: value for part in TOLD if (value := getattr(out, part, None)) is not None}
    loss, zero = torch.full_like(distance, nan), torch.zeros_like(right)
    passes = {"forwards": spent[0], "backwards": spent[1]}
    return AttackResult(**{"loss": loss, "zero_gradient": zero, **passes, **told, **values})


def _placed(problem: Task, points: Tensor, parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return bool [B], which points are in the threat; them, with x in place of others; distances [B]."""
    threat, x = problem.threat, problem.x
    ball, center = threat, x
    if isinstance(threat, Through):
        ball, center = threat.ball, threat.parameters(x, problem.ids)
        points = torch.full_like(center, nan) if parameters is None else parameters.detach().to(center)
        check_like(center, parameters=points)
    inside = ball.holds(points, center)
    if problem.mask is not None:
        moved = unrounded(points, center) != center
        inside &= ~(moved & ~check_mask(problem.mask, center)).flatten(1).any(1)
    points = torch.where(like(inside, center), points.to(center.dtype), center)
    distance = ball.distance(points, center)
    if isinstance(threat, Through):
        points = threat.image(points, x, problem.ids)
        threat.check_images(points)
    return inside, points.clamp(*box_in(threat.box, x.dtype)), distance
