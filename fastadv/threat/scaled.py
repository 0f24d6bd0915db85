"""A budget for each feature."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.ops._rows import add_towards
from fastadv.threat.linf import Linf
from fastadv.threat.through import Through, straight

End = float | Tensor


def Scaled(radius: Tensor, box: tuple[End, End] = (0.0, 1.0)) -> Through:
    """Change each feature by at most a budget of its own, in a range of its own: for tables and sound.

    The parameters t [B, ...] are the changes over their budgets: all lie in [-1, 1], which are the ball
    `Linf(1)`. A success at distance 0.5 takes half of every budget. A feature of budget 0 does not change.
    In half precision x_adv is rounded, which may add half an ulp to a budget.

    Args:
        radius: the budgets, like one sample; finite, >= 0.
        box: (lo, hi) of valid values, each a number or a tensor like one sample. The default is [0, 1].

    Returns:
        A `Through` of samples like `radius`.

    Raises:
        InputError: the budgets are no such tensor, or a range is empty.

    Example:
        >>> import torch, fastadv as fa
        >>> threat = fa.Scaled(torch.tensor([0.5, 2.0]), box=(0.0, torch.tensor([1.0, 100.0])))
        >>> threat.image(torch.ones(1, 2), torch.tensor([[0.75, 30.0]]))
        tensor([[ 1., 32.]])

    Source:
        Ballet et al. 2019, "Imperceptible Adversarial Attacks on Tabular Data" (arXiv 1911.03274), who weight
        features, too.
    """
    if not isinstance(radius, Tensor) or not radius.is_floating_point() or not radius.ndim:
        raise InputError(f"radius: expected a floating tensor like one sample, got {radius!r}; use fa.Linf")
    if not bool((radius.isfinite() & (radius >= 0)).all()):
        raise InputError("radius: expected finite budgets >= 0, got others among them")
    if len(box) != 2:
        raise InputError(f"box: expected a pair (lo, hi), got {box!r}")
    low, high = (_end(value, radius) for value in box)
    if not bool((low < high).all()):
        raise InputError("box: expected lo < hi for each feature, got an empty range among them")
    scale = _Scale(radius.detach(), low, high)
    whole = float(low.min()), float(high.max())
    name = " to ".join(f"{budget:g}" for budget in sorted({float(radius.min()), float(radius.max())}))
    return Through(scale, Linf(1.0, (-1.0, 1.0)), scale.still, box=whole, name=f"Scaled {name}")


def _end(value: Any, radius: Tensor) -> Tensor:
    end = torch.as_tensor(value, dtype=radius.dtype, device=radius.device)
    if end.ndim and end.shape != radius.shape:
        raise InputError(f"box: expected ends like one sample {tuple(radius.shape)}, got {tuple(end.shape)}")
    return end.expand_as(radius)


@dataclass(frozen=True, eq=False)
class _Scale:
    radius: Tensor
    low: Tensor
    high: Tensor

    def still(self, x: Tensor) -> Tensor:
        if x.shape[1:] == self.radius.shape and not bool(
            ((x >= self.low.to(x)) & (x <= self.high.to(x))).all()
        ):
            raise InputError("x: expected each feature in its own range of the box, got others among them")
        return torch.zeros_like(x)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if (got := x.shape[1:]) != (wanted := self.radius.shape):
            fits = wanted == got[len(got) - len(wanted) :]
            cure = f"; give budgets.expand({', '.join(map(str, got))})" if fits else ""
            raise InputError(f"x: expected samples like the budgets {tuple(wanted)}, got {tuple(got)}{cure}")
        radius, low, high = (bound.to(x) for bound in (self.radius, self.low, self.high))
        change = radius * t
        # rounded towards x: no budget is exceeded by a rounding
        moved = add_towards(x, change.detach().double())
        return straight(moved.clamp(low, high), change)
