"""Gradient rules whose adversarial examples transfer better to other models (docs/transfer.md).

Each is passed to an attack as `gradient=`, alone or in a list. Random numbers are keyed by seed, sample and
step, where most implementations draw once for a whole batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fastadv._checks import check_count, check_number
from fastadv.attacks.core.gradient_rule import GradientAt, GradientRule
from fastadv.attacks.core.search import Search
from fastadv.errors import InputError
from fastadv.threat import Threat

__all__ = ["block_shuffle", "diverse_inputs", "flat_minima", "translation_invariant", "variance_tuning"]


class _OfImages(GradientRule):
    def check(self, x: Tensor, threat: Threat) -> None:
        if x.ndim != 4:
            name, got = type(self).__name__, list(x.shape)
            raise InputError(
                f"gradient: {name} expected images [B, C, H, W], got x of shape {got}; leave it out"
            )


@dataclass(frozen=True)
class _OfNeighbors(GradientRule):
    neighbors: int = 20
    radii: float = 1.5

    def __post_init__(self) -> None:
        check_count("neighbors", self.neighbors, 1)
        check_number("radii", self.radii, 0)

    def check(self, x: Tensor, threat: Threat) -> None:
        if threat.norm != "linf" or not threat.finite:
            name = type(self).__name__
            raise InputError(
                f"gradient: {name} expected Linf with a finite radius, of which its neighbors are multiples "
                f"(a minimum-norm attack searches without one), got {threat!r}; leave it out"
            )


def _radius(search: Search, points: Tensor) -> Tensor:
    """Return the radius, or that of each point, to multiply points by."""
    radius = torch.as_tensor(search.threat.radius, dtype=points.dtype, device=points.device)
    return radius.reshape(-1, *[1] * (points.ndim - 1))


def _near(search: Search, points: Tensor, size: float) -> Tensor:
    """Return points drawn from the cubes around these, whose edges are 2 * size radii, inside the mask."""
    away = 2 * search.uniform(points[0].numel()).view_as(points) - 1
    return search.problem.masked(points + size * _radius(search, points) * away)


@dataclass(frozen=True)
class diverse_inputs(_OfImages):
    """Take the gradient at images that are resized and padded at random (DI-FGSM).

    With a probability the image is resized bilinearly to a random side, padded with zeros at random places to
    the largest, and resized to its side again, which any model takes. A step takes one pass and the verdict.

    Args:
        probability: of the transformation, from 0 to 1; 0.5 as in the paper.
        largest: the largest side over that of the image, at least 1; about 330 / 299 in the paper.

    Source:
        Xie et al. 2019, "Improving Transferability of Adversarial Examples with Input Diversity" (arXiv
        1803.06978), equation 2.
    """

    probability: float = 0.5
    largest: float = 1.1
    linear = True

    def __post_init__(self) -> None:
        check_number("probability", self.probability, 0, 1)
        check_number("largest", self.largest, 1)

    def __call__(self, search: Search, points: Tensor, ask: GradientAt) -> Tensor:
        chosen, size, *starts = search.uniform(4).unbind(1)
        maps = []
        for side, start in zip(points.shape[2:], starts, strict=True):
            most = round(side * self.largest)
            sides = side + (size * max(most - side, 1)).floor()
            first = (start * (most - sides + 1)).floor()
            back = _resizing(most, points.new_full((1,), side), points.new_zeros(1), side)
            there = back @ _resizing(side, sides, first, most)
            same = torch.eye(side, dtype=points.dtype, device=points.device)
            maps.append(torch.where(chosen.view(-1, 1, 1) < self.probability, there, same).unsqueeze(1))
        rows, columns = maps
        return rows.mT @ ask(rows @ points @ columns.mT) @ columns


def _resizing(side: int, sides: Tensor, first: Tensor, most: int) -> Tensor:
    """Return matrices [n, most, side] that resize an axis to `sides` [n] and pad it with zeros."""
    place = torch.arange(most, dtype=sides.dtype, device=sides.device) - first[:, None]
    source = ((place + 0.5) * side / sides[:, None] - 0.5).clamp(0, side - 1)
    pixels = torch.arange(side, dtype=sides.dtype, device=sides.device)
    weight = (1 - (source[:, :, None] - pixels).abs()).clamp_min(0)
    return weight * ((place >= 0) & (place < sides[:, None]))[:, :, None]


@dataclass(frozen=True)
class block_shuffle(_OfImages):
    """Take the mean gradient at copies whose blocks are shuffled and rotated (BSR).

    Each copy is cut into strips of random widths along a random axis, each strip into blocks along the other;
    strips and blocks are shuffled, and each block is rotated around its center by a random angle, with zeros
    where nothing was. A step takes `copies` passes and the verdict.

    Args:
        blocks: along each axis, >= 1; 2 as in the paper.
        degrees: the largest angle, >= 0; 24 as in the paper.
        copies: a step, >= 1; 20 as in the paper.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8))
        >>> rule = fa.attacks.rules.block_shuffle(copies=5)
        >>> out = fa.attacks.mim(model, x, model(x).argmax(1), fa.Linf(0.3), gradient=rule, stop_early=False)
        >>> out.backwards == 8 * 10 * 5
        True

    Source:
        Wang et al. 2024, "Boosting Adversarial Transferability by Block Shuffle and Rotation" (arXiv
        2308.10299), section 3.3.
    """

    blocks: int = 2
    degrees: float = 24.0
    copies: int = 20

    def __post_init__(self) -> None:
        check_count("blocks", self.blocks, 1)
        check_number("degrees", self.degrees, 0)
        check_count("copies", self.copies, 1)

    def __call__(self, search: Search, points: Tensor, ask: GradientAt) -> Tensor:
        total, (height, width) = torch.zeros_like(points).flatten(2), points.shape[2:]
        for _ in range(self.copies):
            index, weight = self._taps(search, height, width)
            index = index.expand(-1, points.shape[1], -1)
            taps = points.flatten(2).gather(2, index) * weight
            gradient = ask(taps.view(*points.shape[:2], 4, -1).sum(2).view_as(points))
            total.scatter_add_(2, index, gradient.flatten(2).repeat(1, 1, 4) * weight)
        return total.view_as(points) / self.copies

    def _taps(self, search: Search, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the four pixels int64 [n, 1, 4 * H * W] that make each of a copy, and their weights."""
        b = self.blocks
        drawn = search.uniform(1 + 2 * b + 3 * b * b)
        axis, strips, blocks, angles = torch.split(drawn, [1, 2 * b, 2 * b * b, b * b], 1)
        across = axis < 0.5  # the strips are columns
        place = torch.arange(height * width, device=axis.device)
        row, column = (place // width).to(axis), (place % width).to(axis)
        sides = torch.where(across, axis.new_tensor([width, height]), axis.new_tensor([height, width]))
        cut = _cut(strips.view(-1, 1, 2, b), sides[:, :1]).expand(-1, -1, len(place), -1)
        strip, *outer = _moved(cut, torch.where(across, column, row))
        cut = _cut(blocks.view(-1, b, 2, b), sides[:, 1:].expand(-1, b))
        cut = cut.gather(2, strip[None, :, :, None].expand(3, -1, -1, b))
        block, *inner = _moved(cut, torch.where(across, row, column))
        angle = (2 * angles.gather(1, strip * b + block) - 1) * math.radians(self.degrees)
        u, v = (local - (length - 1) / 2 for local, _, length in (outer, inner))
        (at_u, of_u), (at_v, of_v) = (
            _between(angle.cos() * u - angle.sin() * v, *outer[1:]),
            _between(angle.sin() * u + angle.cos() * v, *inner[1:]),
        )
        at_u, at_v = at_u[:, :, None], at_v[:, None]
        index = torch.where(across[:, None, None], at_v * width + at_u, at_u * width + at_v)
        return index.flatten(1)[:, None], (of_u[:, :, None] * of_v[:, None]).flatten(1)[:, None]


def _between(local: Tensor, start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels int64 [n, 2, P] beside places of a piece, counted from its center, and weights."""
    local = (local + (length - 1) / 2)[:, None]
    pixel = torch.cat([local.floor(), local.floor() + 1], 1)
    weight = (1 - (local - pixel).abs()) * ((pixel >= 0) & (pixel < length[:, None]))
    return (start[:, None] + pixel.clamp_min(0).minimum(length[:, None] - 1)).long(), weight


def _cut(drawn: Tensor, side: Tensor) -> Tensor:
    """Cut axes of length side [n, m] into pieces, and shuffle them by drawn [n, m, 2, b].

    Returns [3, n, m, b]: of the pieces in their new order the new ends, the old starts and the lengths.
    """
    share, key = (1 - drawn).unbind(2)
    ends = (share.cumsum(2) / share.sum(2, keepdim=True) * side[:, :, None]).round()
    length = ends.diff(dim=2, prepend=torch.zeros_like(ends[:, :, :1]))
    order = key.argsort(stable=True, dim=2)
    start, length = (ends - length).gather(2, order), length.gather(2, order)
    return torch.stack([length.cumsum(2), start, length])


def _moved(pieces: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return in which of pieces [3, n, P, b] places [n, P] lie, where in it, its old start and its length."""
    which = (place[:, :, None] >= pieces[0]).sum(2)
    end, start, length = pieces.gather(3, which[None, :, :, None].expand(3, -1, -1, 1)).squeeze(3)
    return which, place - end + length, start, length


@dataclass(frozen=True)
class flat_minima(_OfNeighbors):
    """Lead to where the gradient is small around the point: flat maxima of the loss (PGN).

    At each neighbor z, drawn from the cube around the point, g is the gradient at z, and h that at
    z - step * radius * g / mean(abs(g)); the rule is the mean of (1 - balance) * g + balance * h over
    neighbors. The paper divides by the sum of abs(g), its code by the mean, as here. A step takes two passes
    for each neighbor and the verdict. It is for Linf.

    Args:
        neighbors: a step, >= 1; 20 as in the paper.
        radii: half an edge of the cube in radii, >= 0; 3 as in the paper.
        balance: weight of the second gradient, from 0 to 1; 0.5 as in the paper.
        step: in radii, >= 0; 0.1 as in the paper, with 10 steps.

    Source:
        Ge et al. 2023, "Boosting Adversarial Transferability by Achieving Flat Local Maxima" (arXiv
        2306.05225), algorithm 1.
    """

    radii: float = 3.0
    balance: float = 0.5
    step: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("balance", self.balance, 0, 1)
        check_number("step", self.step, 0)

    def __call__(self, search: Search, points: Tensor, ask: GradientAt) -> Tensor:
        total, step = torch.zeros_like(points), self.step * _radius(search, points)
        for _ in range(self.neighbors):
            near = _near(search, points, self.radii)
            gradient = ask(near)
            size = gradient.abs().mean(tuple(range(1, points.ndim)), keepdim=True)
            ahead = near - step * torch.where(size > 0, gradient / size, 0.0)
            ahead = ask(search.problem.masked(ahead))
            total += (1 - self.balance) * gradient + self.balance * ahead
        return total / self.neighbors


@dataclass(frozen=True)
class translation_invariant(_OfImages):
    """Smooth the gradient with a Gaussian kernel (TI-FGSM). One pass a step.

    It serves targets with a defense of their own; on others it lowers the mean (docs/transfer.md).

    Args:
        size: of the kernel, odd; the paper has 15 for 299 pixels, later papers 7.
        deviations: the standard deviations from the center of the kernel to its edge, >= 0; 3 as usual.

    Source:
        Dong et al. 2019, "Evading Defenses to Transferable Adversarial Examples by Translation-Invariant
        Attacks" (arXiv 1904.02884), equation 7.
    """

    size: int = 7
    deviations: float = 3.0
    linear = True

    def __post_init__(self) -> None:
        if check_count("size", self.size, 1) % 2 == 0:
            raise InputError(f"size: expected an odd number of pixels, got {self.size}; add one")
        check_number("deviations", self.deviations, 0)

    def __call__(self, search: Search, points: Tensor, ask: GradientAt) -> Tensor:
        gradient = ask(points)
        away = torch.linspace(-self.deviations, self.deviations, self.size, device=gradient.device)
        line = away.square().div(-2).exp().to(gradient.dtype)
        kernel = (torch.outer(line, line) / line.sum() ** 2).expand(gradient.shape[1], 1, -1, -1)
        return conv2d(gradient, kernel, padding=self.size // 2, groups=gradient.shape[1])


@dataclass(frozen=True)
class variance_tuning(_OfNeighbors):
    """Add the variance of the gradient around the previous point (VMI-FGSM).

    It is gradient + mean of the gradients at neighbors of the previous point - the gradient there. A step
    takes one pass and, but for the first, one for each neighbor. It comes last in a list, and is for Linf.

    Args:
        neighbors: a step, >= 1; 20 as in the paper.
        radii: half an edge of their cube in radii, >= 0; 1.5 as in the paper.

    Source:
        Wang and He 2021, "Enhancing the Transferability of Adversarial Attacks through Variance Tuning"
        (arXiv 2103.15571), equations 6 and 7.
    """

    last = True

    def __call__(self, search: Search, points: Tensor, ask: GradientAt) -> Tensor:
        before, gradient = search.memory.pop("variance_tuning", None), ask(points)
        kept, total = search.memory, torch.zeros_like(gradient)
        remembered = {**kept, "variance_tuning": torch.stack([points, gradient], 1)}
        if before is None:
            search.memory = remembered
            return gradient
        for _ in range(self.neighbors):
            # what other rules remember goes from point to point, and not by way of neighbors
            search.memory = {name: value.clone() for name, value in kept.items()}
            total += ask(_near(search, before[:, 0], self.radii))
        search.memory = remembered
        return gradient + total / self.neighbors - before[:, 1]
