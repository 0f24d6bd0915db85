"""Threat models: a norm ball around each sample, intersected with the box of valid inputs."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fastadv import ops
from fastadv.errors import InputError
from fastadv.ops._rows import PerRow, check_like, clamp_box, column, per_row

SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Threat:
    """All z with ||z - x|| <= radius and lo <= z <= hi, for each sample x.

    radius  in input units, a number or one value a sample [B]; may be inf. It has no default.
    box     (lo, hi) of valid inputs; samples must lie inside.
    Points made here never exceed the radius, in exact arithmetic: the last addition rounds towards x.
    """

    radius: PerRow
    box: tuple[float, float] = (0.0, 1.0)
    norm: ClassVar[str]
    symbol: ClassVar[str]
    order: ClassVar[float]

    def __post_init__(self) -> None:
        radius = self.radius
        if isinstance(radius, Tensor):
            if radius.dim() > 1 or bool((radius.isnan() | (radius < 0)).any()):
                least = radius.min().item() if radius.numel() else None
                raise InputError(
                    f"radius: expected a number or a [B] tensor of values >= 0, got shape {tuple(radius.shape)}, least {least}"
                )
        elif not float(radius) >= 0:
            raise InputError(f"radius: expected a number >= 0 in input units, got {radius}")
        lo, hi = self.box
        if not lo < hi:
            raise InputError(f"box: expected (lo, hi) with lo < hi, got {self.box}")

    def take(self, index: Tensor) -> Self:
        """The threat of the samples `index` alone (an int64 or bool index of the batch)."""
        return (
            replace(self, radius=self.radius[index])
            if isinstance(self.radius, Tensor) and self.radius.dim()
            else self
        )

    def with_radius(self, radius: PerRow) -> Self:
        """The same ball and box at another radius."""
        return replace(self, radius=radius)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """||x_adv - x|| of each sample, float64 [B]."""
        distance: Tensor = torch.linalg.vector_norm(
            (x_adv.double() - x.double()).flatten(1), self.order, dim=1
        )
        return distance

    def contains(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """bool [B]: the norm, taken in float64, is at most radius * (1 + 1e-6), and every coordinate is inside the box, exactly. NaN is outside."""
        radius = column(*per_row("radius", self.radius, x), x).reshape(-1)
        # a clamp that changes nothing: the box as x_adv's own dtype rounds it
        inside = (clamp_box(x_adv, *self.box) == x_adv).flatten(1).all(1)
        return inside & (self.distance(x_adv, x) <= radius * (1 + SLACK))

    def random_start(self, x: Tensor, seed: int = 0, ids: Tensor | None = None, draw: int = 0) -> Tensor:
        """A point uniform in the ball, clamped to the box, as a function of (seed, id, draw); ids default to 0 .. B - 1.

        Raises InputError where the radius is infinite.
        """
        ids = torch.arange(x.shape[0], device=x.device) if ids is None else ids
        return ops.random_start(x, ids, self.norm, self.radius, self.box, seed, draw)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest point to x_adv, in the Euclidean norm, that ball and box hold."""
        raise NotImplementedError

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        """Steepest ascent of length step_size (a number or [B]) along grad in the threat's norm, projected on ball and box.

        A non-finite gradient moves nothing (Linf: the coordinate; other norms: the sample); nor does a zero one.
        """
        raise NotImplementedError

    def step_(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        """`step` that overwrites and returns x_adv, which must not be x itself."""
        return x_adv.copy_(self.step(x_adv, grad, x, step_size))


class Linf(Threat):
    """max |z_i - x_i| <= radius."""

    norm = "linf"
    symbol = "L∞"
    order = float("inf")

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.linf_step(x_adv, x_adv, x, self.radius, 0.0, self.box)

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        return ops.linf_step(x_adv, grad, x, self.radius, step_size, self.box)

    def step_(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        return ops.linf_step_(x_adv, grad, x, self.radius, step_size, self.box)


class L2(Threat):
    """||z - x||_2 <= radius."""

    norm = "l2"
    symbol = "L2"
    order = 2.0

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.project_l2(x_adv, x, self.radius, self.box)

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        return ops.l2_step(x_adv, grad, x, self.radius, step_size, self.box)

    def step_(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        return ops.l2_step_(x_adv, grad, x, self.radius, step_size, self.box)


class L1(Threat):
    """sum |z_i - x_i| <= radius."""

    norm = "l1"
    symbol = "L1"
    order = 1.0

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.project_l1(x_adv, x, self.radius, self.box)

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        return ops.l1_step(x_adv, grad, x, self.radius, step_size, self.box)

    def step_(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        return ops.l1_step_(x_adv, grad, x, self.radius, step_size, self.box)


class L0(Threat):
    """At most `radius` coordinates of z differ from x. Steps are counted in coordinates."""

    norm = "l0"
    symbol = "L0"
    order = 0.0

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return ops.project_l0(x_adv, x, self.radius, self.box)

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        """Send the step_size coordinates of the largest first-order gain |grad| * room to the edge of the box, then project.

        Raises InputError on an infinite box, which has no edge.
        """
        check_like(x_adv, grad=grad, x=x)
        lo, hi = self.box
        if hi - lo == float("inf"):
            raise InputError(f"box: expected a finite one for an L0 step, got {self.box}")
        rows, slope = x_adv.flatten(1), grad.double().flatten(1)
        slope = torch.where(slope.isfinite().all(1, keepdim=True), slope, 0.0)
        edge = torch.where(slope > 0, hi, lo).to(x_adv.dtype)
        gain = slope * (edge.double() - rows.double())
        rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        moves = (gain > 0) & (rank < column(*per_row("step_size", step_size, rows), rows).floor())
        return self.project(torch.where(moves, edge, rows).reshape(x.shape), x)


THREATS: dict[str, type[Threat]] = {kind.norm: kind for kind in (Linf, L2, L1, L0)}
