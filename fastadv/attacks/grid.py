"""Grid search over few parameters (Engstrom et al. 2019)."""

from collections.abc import Sequence
from itertools import count
from math import prod
from typing import Unpack

import torch
from torch import Tensor

from fastadv.attacks import core
from fastadv.errors import InputError
from fastadv.threat import Threat

POINTS = {1: (201,), 2: (31, 31), 3: (5, 5, 31)}  # by the number of parameters
MOST = 1 << 20  # points of a grid
CHUNK = 32  # candidates of a sample in a pass; the first passes have fewer, as most samples leave there


class _Rows(core.Rows):
    """The ends [n, ...] of the ball in the box."""

    lower: Tensor
    upper: Tensor


@core.registered(knowledge="score", requires="few parameters, as of Moved", paper="Engstrom et al. 2019")
@core.tested(quick={"points": 3}, oracle={"points": 9})
@core.takes_common(norms=("linf",), finite=True)
def grid(
    model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *,
    points: int | Sequence[int] | None = None, stop_early: bool = True, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Maximize margin(model(z), y) over a grid of z in ball and box, for threats of few parameters.

    All combinations of evenly spaced values are tried, from end to end of what each parameter may be, those
    far from x first. Where there are few parameters, such as the shifts and the angle of `Moved`, that finds
    what gradients miss; it takes no gradient. The loss is the margin of the criterion.

    Args:
        threat: of few parameters in Linf, such as `fa.Moved`; the radius is finite, a number or [B].
        points: values of each parameter, one integer >= 1 for all, or one for each; 1 leaves it as it is. The
            product is at most 2^20. None takes 201 for one parameter, (31, 31) for two, and for three those
            of the paper for two shifts and an angle, (5, 5, 31).
        stop_early: whether a sample stays for further points only until its first success; False looks at
            the whole grid for its strongest point.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> out = fa.attacks.grid(model, x, y, fa.Moved(2, 15), points=(3, 3, 5))
        >>> out.backwards, bool(out.forwards <= 8 * 47)
        (0, True)

    Source:
        Engstrom et al. 2019, "Exploring the Landscape of Spatial Robustness" (arXiv 1712.02779), section 3.
    """

    def rule(search: core.Search[_Rows]) -> None:
        rows, ball = search.rows, search.threat
        radius = torch.as_tensor(ball.radius, dtype=search.x.dtype, device=search.x.device)
        radius = radius.view(-1, *[1] * (search.x.ndim - 1))
        rows.lower, rows.upper = (ball.project(search.x + side * radius, search.x) for side in (-1, 1))
        shares = _shares(points, search.x)
        first = 0
        for number in count():
            chunk = shares[first : first + min(CHUNK, 2**number)]
            if not len(chunk):
                return
            first += len(chunk)
            x = search.x.unsqueeze(1)
            at = torch.lerp(rows.lower.unsqueeze(1), rows.upper.unsqueeze(1), chunk)
            search.score(torch.where(chunk.isnan(), x, at))

    return core.run(model, x, y, threat, rule, rows=_Rows, stop_early=stop_early, **common)


def _shares(points: int | Sequence[int] | None, x: Tensor) -> Tensor:
    """Return [G, ...], where the points of the grid lie between the ends, those far from the middle first."""
    size = x[0].numel()
    if points is None and (points := POINTS.get(size)) is None:
        raise InputError(
            f"points: expected a number for each of {size} parameters, as the default is for up to three, "
            f"got None; pass points=, at most {MOST:,} in all, or search with nes or apgd"
        )
    counts = list(points) if isinstance(points, Sequence) else [points] * size
    counts = [core.check_count("points", number, 1) for number in counts]
    if len(counts) != size or prod(counts) > MOST:
        raise InputError(
            f"points: expected one integer for each of {size} parameters, at most {MOST:,} points in all, "
            f"got {points}; grid is for few parameters"
        )
    stays = x.new_full((1,), torch.nan)
    lines = (torch.linspace(0, 1, number, dtype=x.dtype, device=x.device) for number in counts)
    axes = [stays if len(line) == 1 else line for line in lines]
    product = torch.cartesian_prod(*axes).view(-1, size)
    far = (product.nan_to_num(0.5) - 0.5).abs().sum(1)
    return product[far.argsort(descending=True, stable=True)].view(-1, *x.shape[1:])
