"""What an attack of the caller's own claims: no success outside of the threat, or that the model denies."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from math import inf, nan
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.checks import check_mask, from_bytes
from fastadv.attacks.core.criterion import ANY_WRONG, WRONG, Criterion, Goal
from fastadv.attacks.core.points import like
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.core.task import Task
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.ops._rows import check_like
from fastadv.text import several, threat_text
from fastadv.threat import Named, Threat, Through
from fastadv.threat.base import box_in, unrounded

CLAIMED, CLAIMS = "claimed", "claims: "  # how flags begin that say what was made of claims
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
PARTS = ("success", "status", "distance", "loss", "zero_gradient", "unfinished")  # of each sample
UNTOLD = "its threat is not known, so that any point in the box is a success; pass threat="
BARE = "without parameters"
NO_PARAMETERS = f"{BARE}, by which points are checked in {{}}"


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


def claim_flags(claims: Mapping[str, int]) -> tuple[str, ...]:
    """Return the flag of the claims that do not count, of which there are so many by each reason."""
    refuted = Counter(
        {reason: count for reason, count in sorted(claims.items()) if count and reason != CLAIMED}
    )
    why = ", ".join(f"{count} {reason}" for reason, count in refuted.items())
    number, number_claimed = refuted.total(), several(claims.get(CLAIMED, 0), "point")
    are = "is" if number == 1 else "are"
    flag = f"{CLAIMS}{number} of {number_claimed} of the attack {are} no success: {why}"
    return (flag,) * bool(refuted)


def is_own(attack: Any) -> bool:
    """Return whether it is none of the library's, which prove what they return."""
    while isinstance(attack, partial | Within):
        attack = attack.func
    kind = attack if hasattr(attack, "__qualname__") else type(attack)
    home = str(kind.__module__)  # also of what wraps one of ours, which is not found there
    return not (
        home.startswith("fastadv.") and getattr(sys.modules.get(home), kind.__qualname__, None) is kind
    )


def posed(
    bound: Callable[[str], Any], out: Any, model: Prepared, batch: Any, judged: Criterion,
    box: tuple[float, float],
) -> Task:  # fmt: skip
    """Return what was asked of an attack, by what is bound to it under a name, or else by its result."""
    x, ids, goal = batch.x, batch.ids, getattr(out, "goal", None) or ANY_WRONG
    threats = bound("threat"), getattr(out, "threat", None), bound("within"), Named(inf, box, name="the box")
    threat = next(one for one in threats if isinstance(one, Threat))
    criterion = (judged.outputs == "classes" and bound("criterion")) or judged
    targets, mask = (_of_rows(name, bound(name), batch) for name in ("targets", "mask"))
    if targets is not None:
        targets = targets if targets.ndim else targets.expand(batch.y.shape)  # one class for all samples
        targets = criterion.labels("targets", targets, len(x), x.device)
    if mask is not None and not isinstance(threat, Through):
        mask = check_mask(mask, x)
    targets, mask = goal.targets if targets is None else targets, goal.mask if mask is None else mask
    rows = torch.arange(len(x), device=x.device)
    criterion = criterion.meant_by(model.model)
    return Task(
        model.of(x, ids), x, ids, rows, None, y=batch.y, threat=threat, targets=targets, criterion=criterion,
        mask=mask,
    )  # fmt: skip


def _of_rows(name: str, values: Any, batch: Any) -> Any:
    """Return the targets or mask bound to an attack, for the samples of a batch; None for what is another."""
    ids, mask, is_tensor = batch.ids, name == "mask", isinstance(values, Tensor)
    try:
        values = torch.as_tensor(values, device=ids.device)
    except (TypeError, ValueError, RuntimeError):  # None, or a word
        return None
    if values.ndim >= (batch.x.ndim if mask else 1) and len(values) > max(1, int(ids.max())):
        values = values[ids]
    # the size of a patch and classes to try are words of the attack's own
    usual = values.dtype == torch.bool if mask else values.dtype in INTEGERS
    fits = values.numel() and (mask or not values.ndim or len(values) == len(ids))
    return values if is_tensor or (usual and fits) else None


def checked(
    name: str, out: Any, problem: Task, right: Tensor, claims: Counter[str],
    spent: tuple[int, int] = (0, 0),
) -> AttackResult:  # fmt: skip
    """Return the result of an attack, of whose successes among `right` bool [B] those count that are proved.

    A success is proved where its point is in threat, box and mask, up to rounding, and meets the criterion by
    the model as given. A tensor is x_adv, of which each row is claimed. Distances are measured; `spent` are
    the passes where the result tells none.
    """
    parts = _parts_of(name, out, problem)
    goal, threat, flags = parts.get("goal", ANY_WRONG), problem.threat, tuple(parts.get("flags", ()))
    claimed = parts.get("success", right).bool() & right
    bare = isinstance(threat, Through) and "parameters" not in parts
    if bare:
        threat = Named(inf, threat.box, name="the box")
    criterion = goal.criterion  # which may be stricter
    if criterion == WRONG or criterion.outputs != problem.criterion.outputs:
        criterion = problem.criterion
    finite = parts["x_adv"].flatten(1).isfinite().all(1)
    outside, x_adv, distance = _placed(
        replace(problem, threat=threat), parts["x_adv"], parts.get("parameters")
    )
    inside = ~torch.stack([*outside.values()]).any(0)
    if bare:
        claims[NO_PARAMETERS.format(threat_text(problem.threat))] += int((claimed & inside & finite).sum())
        inside &= False
    failed = ~finite | (parts.get("status", right) == Status.FAILED)
    success = claimed & inside
    if bool(success.any()):
        logits = problem.classifier.verdict(x_adv, problem.rows)
        success = success & problem.met(logits) & criterion.met(logits, problem.y, problem.targets)
        failed |= ~logits.isfinite().all(1)
        if problem.targets is not None:  # of the target's own class no sample is led there
            success &= (problem.targets != problem.y).reshape(len(success), -1).any(1)
    claims[CLAIMED] += int(claimed.sum())
    claims["denied by the model as given"] += int((claimed & inside & ~success).sum()) * ("success" in parts)
    for place, beyond in outside.items():
        claims[f"outside of {place}"] += int((claimed & finite & beyond).sum())
    claims["not finite"] += int((claimed & ~finite).sum())
    # a success at x itself, where the model was right: it gives two answers
    same = success & (x_adv == problem.x).flatten(1).all(1)
    status = torch.where(failed, int(Status.FAILED), int(Status.HELD)).masked_fill(success, Status.BROKEN)
    if unknown := type(threat) is Named:
        distance = parts.get("distance", distance)
    values = {
        "loss": torch.full_like(distance, nan), "forwards": spent[0], "backwards": spent[1],
        "zero_gradient": torch.zeros_like(right), **parts, "x_adv": x_adv, "success": success | ~right,
        "status": status.masked_fill(~right | same, Status.ALREADY_WRONG), "flags": flags, "correct": right,
        "distance": distance.float().masked_fill(~success, inf).masked_fill(~right, 0.0),
        "threat": None if unknown else threat, "goal": Goal(criterion, problem.targets, problem.mask),
    }  # fmt: skip
    return replace(out, **values) if isinstance(out, AttackResult) else AttackResult(**values)


def _parts_of(name: str, out: Any, problem: Task) -> dict[str, Any]:
    """Return the parts that a result has, by name, on the device of x; InputError for other shapes."""
    x = problem.x
    names = [one.name for one in fields(AttackResult)]
    parts = {part: value for part in names if (value := getattr(out, part, None)) is not None}
    for part, shape in {"x_adv": x.shape, **dict.fromkeys(PARTS, x.shape[:1])}.items():
        value = parts.get(part, out if part == "x_adv" else None)
        if isinstance(value, Tensor) and value.shape == shape:
            parts[part] = value.detach().to(x.device)
        elif value is not None or part == "x_adv":
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"{name}: expected an AttackResult, or x_adv, with {part} of shape {tuple(shape)}, got {got}"
            )
    points = from_bytes(parts["x_adv"], problem.threat.box)
    return parts | {"x_adv": points if points.is_floating_point() else points.to(x)}


def _placed(problem: Task, points: Tensor, parameters: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return bool [B], which points are outside of what; the points, x in place of those; distances [B]."""
    threat, x = problem.threat, problem.x
    ball, center = problem.threat, problem.x
    if isinstance(threat, Through):
        ball, center = threat.ball, threat.parameters(x, problem.ids)
        points = center if parameters is None else parameters.detach().to(center)
        check_like(center, parameters=points)
    beyond = ~ball.holds(points, center)
    outside = {threat_text(threat): beyond}
    if problem.mask is not None:
        moved = unrounded(points, center) != center
        outside["the mask"] = (moved & ~problem.mask.expand_as(center)).flatten(1).any(1) & ~beyond
        beyond = beyond | outside["the mask"]
    points = torch.where(like(beyond, center), center, points.to(center.dtype))
    distance = ball.distance(points, center)
    if isinstance(threat, Through):
        points = threat.image(points, x, problem.ids)
        threat.check_images(points)
    return outside, points.clamp(*box_in(threat.box, x.dtype)), distance
