"""Points at which the model has no finite logits: what a search does instead of following their gradient.

It goes on along the last gradient of the sample, which crosses a band without answers. A sample without one,
as at a random start, goes halfway back to x, where there was an answer.
"""

import torch
from torch import Tensor

from fastadv.ops._rows import like


def go_on(
    points: Tensor, x: Tensor, finite: Tensor, gradient: Tensor, last: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return where rows that are not `finite` bool [n] go on from, and along what; other rows are unchanged.

    Points are [n, ...]. The gradient and the `last` one, if it is of this shape, are [n, ...] or [n, C, ...].
    """
    last = last if last is not None and last.shape == gradient.shape else torch.zeros_like(gradient)
    usable = (last != 0) & last.isfinite()
    lost = ~finite & ~usable.flatten(1).any(1)
    back = torch.where(like(lost, points), torch.lerp(x, points, 0.5), points)
    return back, torch.where(like(finite, gradient), gradient, last.to(gradient.dtype))
