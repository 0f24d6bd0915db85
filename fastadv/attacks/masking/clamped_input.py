"""A clamp or window of the input: values that a search moves to where the model is flat do not come back.

Random starts and first steps land there, and the search then goes on with the others alone. ReLUs behind a
filter are flat in places, too, but by what stands around a value, not by the value itself.
"""

from math import inf

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks.core.task import Task
from fastadv.errors import InputError
from fastadv.ops._rows import like

SAMPLES = 8  # to look at
LIMIT = 0.03  # of the values: at 0.05 PGD leaves 5 points more than from x; 0 of nets without a clamp
ALONE = 0.85  # of those that come back when they move, whose gradient stays 0 whatever the others do
PASSES = 10  # at most, forward and backward; 2 where hardly any value is flat
WORDS = "the model clamps its input: the gradient of values is 0 where a search stands, or FGSM beats PGD"
ADVICE = (
    "narrow the threat's box to the range of the clamp, or clamp the data and give the model without it; or "
    "make the clamp a module, and give fa.models.bpda(model, {its name: 'identity'})"
)


def share(problem: Task, seed: int) -> float:
    """Return the share of values that are flat at a random start, but not elsewhere in their reach."""
    x, threat, mask = problem.x, problem.threat, problem.mask
    if not threat.finite:  # all searches start at x
        return 0.0
    low, high = threat.box

    def flat(points: Tensor) -> Tensor:
        about = problem.y, problem.margin, problem.targets, True, problem.rows
        return problem.classifier.input_gradient(points, *about)[2] == 0

    try:
        start = threat.random_start(x, seed, problem.ids)
        start = start if mask is None else start.where(mask, x)
        moved = (start != x) & (start > low) & (start < high)
        dead, count = flat(start) & moved, max(int(moved.sum()), 1)
        if (part := int(dead.sum()) / count) <= LIMIT:
            return 0.0
        radius = torch.as_tensor(inf if threat.order == 0 else threat.radius, device=x.device).to(x)
        reach = like(radius, x) if radius.ndim else radius
        lowest, highest = (x - reach).clamp(low, high), (x + reach).clamp(low, high)
        farthest = lowest.where(start - lowest > highest - start, highest)
        # Only a half moves: what comes back in the other half does so by its neighbors.
        half = rng.uniform(x[0].numel(), seed, problem.ids, 1).view(x.shape) < 0.5
        own, other = dead & half, dead & ~half
        places = farthest, (2 * x - start).clamp(low, high)
        back = ~(flat(places[0].where(own, start)) & flat(places[1].where(own, start)))
        alone = back & flat(start.where(own, lowest)) & flat(start.where(own, highest))
    except InputError:  # no gradient, or no random start
        return 0.0
    returned, by_itself, by_others = (
        int((which & among).sum()) / max(int(among.sum()), 1)
        for which, among in ((back, own), (alone, own), (back, other))
    )
    return part * max(by_itself - by_others, 0.0) if by_itself > ALONE * returned else 0.0
