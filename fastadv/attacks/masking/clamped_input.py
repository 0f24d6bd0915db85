"""A clamp, ReLU or window of the input: values stand where the model is flat, and a search leaves them there.

ReLUs behind a filter are flat in places, too, but by what stands around a value, not by the value itself.
"""

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking.probes import repeated
from fastadv.errors import InputError
from fastadv.ops._rows import like

LIMIT = 0.03  # of the values: at 0.05 PGD leaves 5 points more than from x; 0 of nets without a clamp
ALONE = 0.85  # of those that come back when they move, whose gradient stays 0 whatever the others do
WORDS = "the model clamps its input: the gradient of values is 0 where a search stands, and not nearby"
ADVICE = (
    "make the clamp a module, and give fa.models.bpda(model, {its name: 'identity'}); or narrow the box "
    "to its range, or clamp the data and give the model without it"
)


def share(task: Task, seed: int) -> float:
    """Return the share of values that are flat at a random start, but not elsewhere in their reach."""
    x, threat = task.x, task.threat
    if not threat.finite:  # all searches start at x
        return 0.0
    low, high = threat.box
    try:
        start = task.masked(threat.random_start(x, seed, task.ids))
        (dead,) = _flat(task, start)
        dead = dead if task.mask is None else dead & task.mask
        if (part := int(dead.sum()) / max(int((dead | (start != x)).sum()), 1)) <= LIMIT:
            return 0.0
        radius = torch.as_tensor(torch.inf if threat.order == 0 else threat.radius, device=x.device).to(x)
        reach = like(radius, x) if radius.ndim else radius
        lowest, highest = (x - reach).clamp(low, high), (x + reach).clamp(low, high)
        farthest = lowest.where(start - lowest > highest - start, highest)
        # Only a half moves: what comes back in the other half does so by its neighbors.
        half = rng.uniform(x[0].numel(), seed, task.ids, 1).view(x.shape) < 0.5
        own, other = dead & half, dead & ~half
        places = farthest, (2 * x - start).clamp(low, high)
        moved = [place.where(own, start) for place in places]
        moved += [start.where(own, end) for end in (lowest, highest)]
        far, mirrored, below, above = _flat(task, *moved)
    except InputError:  # no gradient, or no random start
        return 0.0
    back, alone = ~(far & mirrored), ~(far & mirrored) & below & above
    returned, by_itself, by_others = (
        int((which & among).sum()) / max(int(among.sum()), 1)
        for which, among in ((back, own), (alone, own), (back, other))
    )
    return part * max(by_itself - by_others, 0.0) if by_itself > ALONE * returned else 0.0


def _flat(task: Task, *points: Tensor) -> tuple[Tensor, ...]:
    """Return bool like each of the points: where the gradient of the margin is 0."""
    many = repeated(task, len(points))
    about = many.y, many.margin, many.targets, True, many.rows
    gradient = many.classifier.input_gradient(torch.cat(points), *about)[2]
    return torch.split(gradient == 0, len(task.x))
