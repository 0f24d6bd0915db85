"""What an attack of the caller's own claims: no success outside of the threat, or that the model denies."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from math import inf, nan
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.core.criterion import ANY_WRONG, WRONG, Criterion, Goal
from fastadv.attacks.core.points import like
from fastadv.attacks.core.problem import Problem, check_mask, from_bytes
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.text import threat_text
from fastadv.threat import Named, Threat, Through
from fastadv.threat.base import box_in, unrounded

CLAIMS = "claims: "  # how flags begin that say what was made of claims
PARTS = ("success", "status", "distance", "loss", "zero_gradient", "unfinished")  # of each sample
NO_PARAMETERS = (
    CLAIMS + "expected the parameters of {0}, got images alone; they are checked in the box, not in {0}"
)


class Box(Named):
    """The box alone, where nothing says in which ball an attack searched; distances are those of Linf."""

    order = inf


class Claims(Counter[str]):
    """How many successes were claimed, and how many of them do not count, by the reason."""

    @classmethod
    def together(cls, parts: Iterable[Mapping[str, int]]) -> "Claims":
        made = cls()
        for part in parts:
            made.update(part)
        return made

    def flags(self) -> tuple[str, ...]:
        refuted = {reason: count for reason, count in self.items() if count and reason != "claimed"}
        why = ", ".join(f"{count} {reason}" for reason, count in refuted.items())
        told = f"{CLAIMS}{sum(refuted.values())} of {self['claimed']} points of the attack are no success: "
        return (told + why,) * bool(why)


def layers(attack: Any) -> Iterator[Any]:
    """Yield an attack and what it wraps, from outside to inside."""
    while attack is not None:
        yield attack
        attack = getattr(attack, "func", getattr(attack, "__wrapped__", None))


def bound(attack: Any, name: str) -> Any:
    """Return the argument of this name that is bound to an attack, perhaps inside another; None without."""
    partials = (each for each in layers(attack) if isinstance(each, partial) and name in each.keywords)
    return next((each.keywords[name] for each in partials), None)


def is_own(attack: Any) -> bool:
    """Return whether it is none of the library's, which prove what they return."""
    while isinstance(attack, partial):
        attack = attack.func
    return not (getattr(attack, "proves", False) or any(attack is card.run for card in REGISTRY.values()))


def posed(
    attack: Any, out: Any, model: Prepared, x: Tensor, y: Tensor, ids: Tensor, judged: Criterion,
    box: tuple[float, float],
) -> Problem:  # fmt: skip
    """Return what was asked of an attack, by what is bound to it, or else by its result."""
    goal, targets = getattr(out, "goal", ANY_WRONG), _of_rows(bound(attack, "targets"), ids, 1)
    threats = bound(attack, "threat"), getattr(out, "threat", None), Box(inf, box, name="the box")
    threat = next(each for each in threats if isinstance(each, Threat))
    criterion = (judged.outputs == "classes" and bound(attack, "criterion")) or judged
    if targets is not None:
        targets = criterion.labels("targets", targets, len(x), x.device)
    mask = _of_rows(bound(attack, "mask"), ids, x.ndim)
    if mask is not None and not isinstance(threat, Through):
        mask = check_mask(mask, x)
    targets, mask = goal.targets if targets is None else targets, goal.mask if mask is None else mask
    return Problem(x, y, threat, targets, ids, criterion.meant_by(model.model), mask)


def _of_rows(values: object, ids: Tensor, ndim: int) -> Tensor | None:
    """Return what is bound to an attack for the samples `ids` of the data, or else for those of a batch."""
    if not isinstance(values, Tensor):  # a word of the attack's own
        return None
    values, last = values.to(ids.device), max(1, int(ids.max()))
    return values[ids] if values.ndim >= ndim and len(values) > last else values


def checked(
    name: str, out: Any, model: Prepared, problem: Problem, right: Tensor, claims: Claims,
    spent: tuple[int, int] = (0, 0),
) -> AttackResult:  # fmt: skip
    """Return the result of an attack, of whose successes among `right` bool [B] those count that are proved.

    A success is proved where its point is in threat, box and mask, up to rounding, and meets the criterion by
    the model as given. A tensor is taken for x_adv, of which each row is claimed. Distances are measured;
    `spent` are the passes, where the result does not tell them.
    """
    told = _told(name, out, problem)
    points, goal, threat = told["x_adv"], told.get("goal", ANY_WRONG), problem.threat
    flags = tuple(told.get("flags", ()))
    if isinstance(threat, Through) and "parameters" not in told:
        flags += (NO_PARAMETERS.format(threat.name),)
        threat = Box(inf, threat.box, name="the box")
    criterion = goal.criterion  # which may be stricter
    if criterion == WRONG or criterion.outputs != problem.criterion.outputs:
        criterion = problem.criterion
    finite = points.flatten(1).isfinite().all(1)
    inside, x_adv, distance = _placed(replace(problem, threat=threat), points, told.get("parameters"))
    claimed = told.get("success", right).bool() & right
    failed = ~finite | (told.get("status", right) == Status.FAILED)
    success = claimed & inside
    if bool(success.any()):
        model.begin(problem.x, problem.ids)
        logits = model.verdict(x_adv)
        success = success & problem.met(logits) & criterion.met(logits, problem.y, problem.targets)
        failed |= ~logits.isfinite().all(1)
    counts = {
        "claimed": claimed,
        "denied by the model as given": claimed & inside & ~success & ("success" in told),
        f"outside of {threat_text(threat)}": claimed & finite & ~inside,
        "not finite": claimed & ~finite,
    }
    claims.update({reason: int(which.sum()) for reason, which in counts.items()})
    # a success at x itself, where the model was right: it gives two answers
    same = success & (x_adv == problem.x).flatten(1).all(1)
    status = torch.where(failed, int(Status.FAILED), int(Status.HELD))
    distance = told.get("distance", distance) if isinstance(threat, Box) else distance
    values = {
        "loss": torch.full_like(distance, nan), "forwards": spent[0], "backwards": spent[1],
        "zero_gradient": torch.zeros_like(right), **told, "x_adv": x_adv, "success": success | ~right,
        "status": status.masked_fill(success, Status.BROKEN).masked_fill(~right | same, Status.ALREADY_WRONG),
        "distance": distance.float().masked_fill(~success, inf).masked_fill(~right, 0.0), "flags": flags,
        "correct": right, "threat": None if isinstance(threat, Box) else threat,
        "goal": Goal(criterion, problem.targets, problem.mask),
    }  # fmt: skip
    return replace(out, **values) if isinstance(out, AttackResult) else AttackResult(**values)


def _told(name: str, out: Any, problem: Problem) -> dict[str, Any]:
    """Return the parts that a result has, by name, on the device of x; InputError for other shapes."""
    x = problem.x
    told: dict[str, Any] = {each.name: getattr(out, each.name, None) for each in fields(AttackResult)}
    told |= {"x_adv": out} if isinstance(out, Tensor) else {}
    told = {part: value for part, value in told.items() if value is not None}
    for part, shape in {"x_adv": x.shape, **dict.fromkeys(PARTS, x.shape[:1])}.items():
        value = told.get(part, out if part == "x_adv" else None)
        if isinstance(value, Tensor) and value.shape == shape:
            told[part] = value.detach().to(x.device)
        elif value is not None or part == "x_adv":
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"{name}: expected an AttackResult, or x_adv, with {part} of shape {tuple(shape)}, got {got}"
            )
    told["x_adv"] = points = from_bytes(told["x_adv"], problem.threat.box)
    if not points.is_floating_point():
        raise InputError(f"{name}: expected x_adv floating or uint8, got {points.dtype}; convert it")
    return told


def _placed(problem: Problem, points: Tensor, parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return bool [B], which points are allowed; the points, with x in place of others; and distances [B]."""
    threat, x = problem.threat, problem.x
    ball, center = threat, x
    if isinstance(threat, Through):
        ball, center = threat.ball, threat.parameters(x, problem.ids)
        if not isinstance(parameters, Tensor) or parameters.shape != center.shape:
            raise InputError(
                f"parameters: expected a tensor {tuple(center.shape)} of {threat.name}, got another"
            )
        points = parameters.detach().to(center.device)
    inside = ball.holds(points, center)
    if problem.mask is not None:
        moved = unrounded(points, center) != center
        inside &= ~(moved & ~problem.mask.expand_as(center)).flatten(1).any(1)
    points = torch.where(like(inside, center), points.to(center.dtype), center)
    distance = ball.distance(points, center)
    if isinstance(threat, Through):
        points = threat.image(points, x, problem.ids)
        threat.check_images(points)
    return inside, points.clamp(*box_in(threat.box, x.dtype)), distance
