"""Gradient rules that make adversarial examples transfer to other models: DI, TI and VMI."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastadv._checks import check_count, check_number
from fastadv.attacks.core import GradientRule, Search
from fastadv.attacks.core.gradient_rule import Ask
from fastadv.attacks.methods.geometry import like
from fastadv.errors import InputError
from fastadv.threat import Linf, Threat


class _OfImages(GradientRule):
    linear: ClassVar[bool] = True

    def check(self, x: Tensor, threat: Threat) -> None:
        if x.ndim != 4:
            raise InputError(
                f"gradient: {type(self).__name__} expects images x [B, C, H, W], got x of shape "
                f"{tuple(x.shape)}; leave it out"
            )


@dataclass(frozen=True)
class DiverseInput(_OfImages):
    """Take the gradient at a randomly resized and padded image (DI).

    With `probability` an image is resized to a random size, padded with zeros around a random place, and
    resized to its own size again, which is the only one that the model sees. The gradient is that of
    loss(model(T(x))) with respect to x. Each image has its own random numbers at each step. The paper goes
    from 299 to 330 pixels, and passes these to the model as they are.

    Args:
        probability: of a changed image, from 0 to 1; 0.5 by default.
        smallest: the smallest size, relative to that of x; at most `largest`.
        largest: sizes are drawn from the smallest to just below the largest, and padded to the largest.

    Source:
        Xie et al. 2019, "Improving Transferability of Adversarial Examples with Input Diversity" (arXiv
        1803.06978).
    """

    probability: float = 0.5
    smallest: float = 1.0
    largest: float = 1.1

    def __post_init__(self) -> None:
        check_number("probability", self.probability, 0, 1)
        check_number("smallest", self.smallest, 0.01)
        check_number("largest", self.largest, self.smallest)

    def __call__(self, search: Search[Any], points: Tensor, ask: Ask) -> Tensor:
        chosen, size, *places = search.uniform(4).unbind(1)
        rows, columns = (
            self._resized(side, size, place, chosen < self.probability, points)
            for side, place in zip(points.shape[2:], places, strict=True)
        )
        gradient = ask(_along_sides(points, rows, columns))
        return _along_sides(gradient, rows.mT, columns.mT)

    def _resized(self, side: int, size: Tensor, place: Tensor, chosen: Tensor, points: Tensor) -> Tensor:
        """Return [n, side, side], what one side of each image becomes, for draws [n] in [0, 1)."""
        least, most = (max(1, round(side * scale)) for scale in (self.smallest, self.largest))
        sizes = least + (size * max(most - least, 1)).long()
        first = (place * (most - sizes + 1)).long()
        there = _resizing(side, most, sizes, first)
        if most != side:
            back = _resizing(most, side, torch.full_like(sizes, side), torch.zeros_like(first))
            there = back @ there
        same = torch.eye(side, dtype=there.dtype, device=there.device)
        return torch.where(like(chosen, there), there, same).to(points.dtype)


@dataclass(frozen=True)
class TranslationInvariant(_OfImages):
    """Smooth the gradient with a Gaussian, as if it were a mean over shifted images (TI).

    The kernel sums to 1, and each channel is smoothed on its own.

    Args:
        size: of the kernel in pixels, odd; 7 or 15 in the paper.
        deviations: the distance from the middle of the kernel to its edge in standard deviations, > 0; 3 in
            the paper.

    Source:
        Dong et al. 2019, "Evading Defenses to Transferable Adversarial Examples by Translation-Invariant
        Attacks" (arXiv 1904.02884).
    """

    size: int = 7
    deviations: float = 3.0

    def __post_init__(self) -> None:
        if check_count("size", self.size, 1) % 2 == 0:
            raise InputError(f"size: expected an odd number, so that a kernel has a middle, got {self.size}")
        check_number("deviations", self.deviations, 1e-6)

    def __call__(self, search: Search[Any], points: Tensor, ask: Ask) -> Tensor:
        gradient = ask(points)
        rows, columns = (self._smoothing(side, gradient) for side in gradient.shape[2:])
        return _along_sides(gradient, rows, columns)

    def _smoothing(self, side: int, gradient: Tensor) -> Tensor:
        """Return [n, side, side], the convolution along one side; there are zeros beyond the edges."""
        half = self.size // 2
        at = torch.arange(-half, half + 1, dtype=torch.float64) * (self.deviations / max(half, 1))
        kernel = (-0.5 * at.square()).exp()
        kernel = torch.cat([kernel / kernel.sum(), torch.zeros(1, dtype=torch.float64)])
        steps = torch.arange(side)
        apart = (steps[:, None] - steps).abs()
        weights = kernel[torch.where(apart > half, self.size, half + apart.clamp(max=half))]
        return weights.to(gradient).expand(len(gradient), side, side)


@dataclass(frozen=True)
class VarianceTuned(GradientRule):
    """Add the variance of the gradient around the previous point (VMI).

    The variance is the mean gradient at random neighbors of that point minus the gradient at the point
    itself; at the first point nothing is added. The rule is for Linf threats of finite radius, and must be
    the last of the rules.

    Args:
        neighbors: gradients at each step but the first, an integer >= 1; 20 as in the paper.
        reach: how far a coordinate of a neighbor may be away, relative to the radius, > 0; 1.5 as in the
            paper. Neighbors may leave the box, as in the authors' code.

    Source:
        Wang and He 2021, "Enhancing the Transferability of Adversarial Attacks through Variance Tuning"
        (arXiv 2103.15571), algorithm 1.
    """

    neighbors: int = 20
    reach: float = 1.5
    last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("neighbors", self.neighbors, 1)
        check_number("reach", self.reach, 1e-6)

    def check(self, x: Tensor, threat: Threat) -> None:
        if not isinstance(threat, Linf) or not threat.finite:
            raise InputError(
                "gradient: VarianceTuned expects a budget attack with a threat of Linf and a finite radius, "
                f"which measures its neighbors, got a search within {threat!r}; leave it out"
            )

    def __call__(self, search: Search[Any], points: Tensor, ask: Ask) -> Tensor:
        gradient, memory = ask(points), search.memory
        tuned = gradient
        if memory:
            # now, not at the end of the step before: the last step needs none
            near = (ask(self._neighbor(search, memory["points"])) for _ in range(self.neighbors))
            tuned = gradient + (sum(near) / self.neighbors - memory["gradient"])
        # copies: a step may write over what it was given
        memory |= {"points": points.clone(), "gradient": gradient.clone()}
        return tuned

    def _neighbor(self, search: Search[Any], points: Tensor) -> Tensor:
        draws = search.uniform(points[0].numel()).view_as(points)
        radius = torch.as_tensor(search.threat.radius, dtype=points.dtype, device=points.device)
        return points + (2 * draws - 1) * (self.reach * like(radius, points))


def _along_sides(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images [n, C, H, W] with rows [n, P, H] applied to their height, and columns [n, Q, W]."""
    return rows.unsqueeze(1) @ images @ columns.mT.unsqueeze(1)


def _resizing(side: int, whole: int, sizes: Tensor, first: Tensor) -> Tensor:
    """Return [n, whole, side]: a side goes to `sizes` [n], from place `first` [n] on among `whole` zeros."""
    place = torch.arange(whole, device=sizes.device) - first[:, None]
    inside = (place >= 0) & (place < sizes[:, None])
    source = ((place + 0.5) * (side / sizes.double())[:, None] - 0.5).clamp(0, side - 1)
    apart = (source[:, :, None] - torch.arange(side, device=sizes.device)).abs()
    return (1 - apart).clamp_min(0) * inside[:, :, None]
