"""The base class of all norms: radius and box, membership, random starts, step sizes, description."""

import math
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fastadv import ops
from fastadv._checks import as_number, check_count
from fastadv.errors import InputError
from fastadv.hashes import identity, plain, seal
from fastadv.ops._rows import PerRow, add_towards, check_like, clamp_box, column, per_row
from fastadv.ops.philox import philox
from fastadv.threat.quantize import quantize

SLACK = 1e-6
LENGTHS = 1 << 31  # flips the highest bit of a draw, for the lengths of random starts


@dataclass(frozen=True, eq=False)
class Threat:
    """A ball in a box: all z with ||z - x|| <= radius and lo <= z <= hi, for each sample x.

    A subclass defines one norm: name, symbol and exponent, projection and steepest ascent, and overrides
    whatever the norm does differently. Points made here never exceed the radius, in exact arithmetic: the
    last addition rounds towards x.

    In all methods x holds the centers, floating [B, ...] inside the box, and x_adv and grad are like x; but
    grad may be bfloat16, and `distance` takes x_adv of a wider type.
    Points that are returned are like x, too; other results are [B].

    Args:
        radius: in input units, a number or one value for each sample [B]; may be inf. It has no default.
        box: (lo, hi) of valid inputs; samples must lie inside. The default is [0, 1].

    Raises:
        InputError: the radius is negative or NaN, or the box is empty.
    """

    radius: PerRow
    box: tuple[float, float] = (0.0, 1.0)
    norm: ClassVar[str]  # the name in commands, cards and ops: "l2"
    symbol: ClassVar[str]  # in titles and tables: "L2"
    order: ClassVar[float]  # the exponent p of the norm
    least_step: ClassVar[float] = 0.0  # steps below it move nothing
    slack: ClassVar[float] = SLACK  # by what share of the radius rounding may exceed it
    _apart: ClassVar[tuple[str, ...]] = ("radius", "finite", "metric")  # attributes beside the `metric`
    _ops: ClassVar[tuple[Callable[..., Tensor], ...]] = ()  # of `step` and `step_`; else `step` is overridden

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", _checked_radius(self.radius))
        object.__setattr__(self, "box", check_box(self.box))

    @cached_property
    def finite(self) -> bool:
        """Whether the radius is finite for every sample. The first call reads it, which waits for a GPU."""
        radius = self.radius
        return bool(radius.isfinite().all()) if isinstance(radius, Tensor) else math.isfinite(radius)

    @cached_property
    def metric(self) -> str:
        """A hash of what the threat does, but for its radius: of one metric, distances are comparable."""
        held = {name: identity(value) for name, value in vars(self).items() if name not in self._apart}
        return seal([identity(type(self)), held])

    def same(self, other: Any) -> bool:
        """Return whether another value is a threat of this metric and radius."""
        alike = isinstance(other, Threat) and other.metric == self.metric
        return alike and plain(other.radius) == plain(self.radius)

    @property
    def radii(self) -> Tensor | None:
        """The radii of the samples [B]; None where one holds for all."""
        return self.radius if isinstance(self.radius, Tensor) and self.radius.ndim else None

    @property
    def step_key(self) -> tuple[Hashable, ...]:
        """What a captured step knows of the threat, but for `radii`, which are rows of its graph."""
        return type(self), self.box, None if self.radii is not None else self.radius  # type: ignore[return-value]

    def check_one_radius(self) -> None:
        """Raise InputError unless one radius holds for all samples."""
        if isinstance(self.radius, Tensor):
            raise InputError(
                f"threat: expected one radius for all samples, got {tuple(self.radius.shape)}; pass a number"
            )

    def take(self, index: Tensor) -> Self:
        """Return the threat of the samples that `index` [n], numbers or a mask, chooses."""
        if not isinstance(self.radius, Tensor):
            return self
        # already checked; the samples taken may all have a finite radius
        part = self.resized(self.radius[index])
        if self.__dict__.get("finite"):
            part.__dict__["finite"] = True
        return part

    def with_radius(self, radius: PerRow) -> Self:
        """Return the same ball and box at another radius."""
        return replace(self, radius=radius)

    def resized(self, radius: PerRow) -> Self:
        """Return the same ball and box at other radii, without checking them, which would wait for a GPU."""
        return self._but(radius=radius)

    def held_in(self, dtype: torch.dtype) -> Self:
        """Return the same ball in the box rounded to a dtype."""
        return self._but(box=box_in(self.box, dtype))

    def _but(self, **values: Any) -> Self:
        part = copy(self)
        part.__dict__.update(values)
        part.__dict__.pop("finite" if "radius" in values else "metric", None)
        return part

    def describe(self) -> dict[str, Any]:
        """Return all fields for cards and shards, ready for JSON; a tensor becomes a hash."""
        values = {field.name: plain(getattr(self, field.name)) for field in fields(self)}
        return {"name": type(self).__name__, "norm": self.norm, **values}

    @classmethod
    def edge(cls, radius: Any) -> Any:
        """Return the largest distance that counts as within a radius, to which rounding may add a little."""
        return radius * (1 + cls.slack)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Measure ||x_adv - x|| of each sample, in float64."""
        return ops.distance(x_adv, x, self.order)[0]

    def contains(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Test whether each sample is in the ball and the box.

        The norm, in float64, may exceed the radius by a factor of 1 + 1e-6, a count of coordinates by none;
        the box must hold exactly. NaN is outside.
        """
        return self.measure(x_adv, x)[1]

    def measure(self, x_adv: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `distance` and `contains` return, in one pass over the points."""
        number, rows = per_row("radius", self.radius, x)
        distance, inside = ops.distance(x_adv, x, self.order, self.box)
        if type(self).distance is not Threat.distance:  # a norm of the caller's
            distance = self.distance(x_adv, x)
        return distance, inside & (distance <= self.edge(number if rows is None else rows))

    def holds(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Test the same as `contains`, also of points that rounding may have taken out; inf is outside."""
        near = unrounded(x_adv, x)
        return self.held_in(x.dtype).contains(near, x.double()) & near.flatten(1).isfinite().all(1)

    def covers(self, x: Tensor) -> bool:
        """Tell whether the ball of some sample, of finite radius, holds the whole box: it is no limit."""
        if not len(x):
            return False
        low, high = self.box
        values = x.shape[1:].numel()
        across = values if self.order == 0 else (high - low) * values ** (1 / self.order)
        if not isinstance(self.radius, Tensor):
            return across <= self.radius < math.inf
        return bool((self.radius.isfinite() & (self.radius >= across)).any())

    def random_start(
        self, x: Tensor, seed: int = 0, ids: Tensor | None = None, draw: int = 0, length: str = "ball"
    ) -> Tensor:
        """Draw a point from the ball and clamp it to the box; a function of (seed, id, draw).

        `ids` are sample numbers [B], by default 0 to B - 1. The `length` "ball" is uniform in the ball: in
        many dimensions, almost on the sphere. For L2 and L1, "uniform" makes the distance from x uniform in
        [0, radius], before the clamping. Raises InputError for an infinite radius.
        """
        self.check_length(length)
        if not self.finite:
            raise InputError(
                "radius: expected a finite one for a random start, got inf; start at x (random_start=False)"
            )
        ids = torch.arange(x.shape[0], device=x.device) if ids is None else ids
        if length == "ball":
            return ops.random_start(x, ids, self.norm, self.radius, self.box, seed, draw)
        check_like(x)
        rows = x.flatten(1)
        origin = torch.zeros_like(rows, dtype=torch.float64)
        away = ops.random_start(origin, ids, self.norm, 1.0, (-math.inf, math.inf), seed, draw)
        distance = away.norm(self.order, 1, keepdim=True)
        # the length is drawn from a stream of its own: nobody counts draws so far
        share = philox(ids, 1, "uniform", seed, draw ^ LENGTHS).double()
        radius = column(*per_row("radius", self.radius, rows), rows)
        shift = away * (radius * share / torch.where(distance > 0, distance, 1.0))
        return clamp_box(add_towards(rows, shift), *self.box).view_as(x)

    def check_length(self, length: str) -> None:
        """Raise InputError unless random starts can have this length."""
        known = ("ball", "uniform") if self.order in (1, 2) else ("ball",)
        if length not in known:
            raise InputError(
                f"length: expected {' or '.join(map(repr, known))} for a start in {self.symbol}, "
                f"got {length!r}; 'uniform' is for L2 and L1"
            )

    def quantize(self, x_adv: Tensor, x: Tensor, levels: int = 255) -> Tensor:
        """Round x_adv to `levels` + 1 evenly spaced values of the box, inside the ball; 255: 8-bit images.

        The ball is that of `contains`: values that lie whole levels apart do so up to the rounding of both.
        """
        number, rows = per_row("radius", self.radius, x)
        radius = (number if rows is None else rows) * (1 + self.slack)
        return quantize(x_adv, x, self.norm, radius, self.box, levels)

    def default_step_size(self, steps: int, factor: float = 1.0) -> PerRow:
        """Return factor * radius / steps; radius 0, where no step moves, counts as 1.

        Steps of L0 are whole coordinates.
        """
        check_count("steps", steps, 0)
        if not self.finite:
            raise InputError(
                "step_size: expected a number where the radius is infinite, got none; "
                "give a length in input units"
            )
        share = factor / max(steps, 1)
        if isinstance(self.radius, Tensor):
            return torch.where(self.radius > 0, self.radius, 1.0) * share
        return (self.radius or 1.0) * share

    def check_step_size(self, step_size: PerRow) -> None:
        """Raise InputError unless each step size is large enough to have an effect.

        Values on a GPU are not checked: reading them would wait for the device.
        """
        if type(step_size) is float and step_size > self.least_step:  # each step of an attack comes here
            return
        if isinstance(step_size, Tensor):
            if step_size.device.type != "cpu" or torch.compiler.is_compiling():
                return
            least = float(step_size.min()) if step_size.numel() else math.inf
        else:
            least = as_number(step_size)
        if not (least > 0 and least >= self.least_step):
            wanted = f"at least {self.least_step:g} coordinate" if self.least_step else "a positive number"
            got = step_size if math.isnan(least) else f"{least:g}"
            short = f"; a step of {'less' if self.least_step else 'zero'} has no effect" if least >= 0 else ""
            raise InputError(f"step_size: expected {wanted}, got {got}{short}")

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Project x_adv on the intersection of ball and box: the nearest point in the Euclidean norm."""
        raise NotImplementedError

    def step(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        """Take a step of steepest ascent in the threat's norm, and project it on ball and box.

        A gradient that is zero or not finite moves nothing: no coordinate in Linf, no sample in other norms.
        """
        self.check_step_size(step_size)
        return self._ops[0](x_adv, grad, x, self.radius, step_size, self.box)

    def still(self, x: Tensor) -> Tensor:
        """Return the parameters that leave x as it is: in a ball of images, x itself."""
        return x

    def image(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the images of parameters t: in a ball of images, t itself."""
        return t

    def support(self, weight: Tensor, x: Tensor) -> Tensor:
        """Maximize <weight, z - x> over all z in ball and box.

        This is the exact gain of a feature that is linear in x.
        """
        check_like(x, weight=weight)
        rows, along = x.flatten(1).double(), weight.flatten(1).double()
        lo, hi = self.box
        room = torch.where(along > 0, hi - rows, rows - lo).clamp_min(0).where(along != 0, 0.0)
        radius = column(*per_row("radius", self.radius, rows), rows).expand(len(rows), 1)
        return self._gain(along.abs(), room, radius)

    def _gain(self, size: Tensor, room: Tensor, radius: Tensor) -> Tensor:
        """Maximize <size, away> over 0 <= away <= room with ||away|| <= radius, float64 [B, D]."""
        raise NotImplementedError(f"{type(self).__name__}.support needs _gain, or an override")

    def step_(self, x_adv: Tensor, grad: Tensor, x: Tensor, step_size: PerRow) -> Tensor:
        """Take the same step as `step`, and write it into x_adv, which must not be x itself."""
        if not self._ops:
            return x_adv.copy_(self.step(x_adv, grad, x, step_size))
        self.check_step_size(step_size)
        return self._ops[1](x_adv, grad, x, self.radius, step_size, self.box)


@lru_cache
def box_in(box: tuple[float, float], dtype: torch.dtype) -> tuple[float, float]:
    """Return the ends of a box as a dtype holds them; InputError where it makes others of them."""
    low, high = torch.tensor(box, dtype=dtype, device="cpu").tolist()
    if low == high or [*map(math.isinf, box)] != [math.isinf(low), math.isinf(high)]:
        raise InputError(
            f"box: expected ends that {dtype} holds and tells apart, got {box}; give x a wider dtype"
        )
    return low, high


def unrounded(x_adv: Tensor, x: Tensor) -> Tensor:
    """Return x_adv in float64, moved towards x by as much as their dtypes round the largest value of each."""
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in (x_adv, x))
    x_adv, x = x_adv.double(), x.double()
    unit = rounding * torch.maximum(x_adv.abs(), x.abs()).flatten(1).amax(1)
    away = x_adv - x
    return x + away.sign() * (away.abs() - unit.view(-1, *[1] * (x.ndim - 1))).clamp_min(0)


def _checked_radius(radius: Any) -> PerRow:
    if isinstance(radius, Tensor):
        if radius.dim() > 1 or radius.dtype == torch.bool or radius.is_complex():
            raise InputError(
                "radius: expected a number or a [B] tensor of numbers, "
                f"got {radius.dtype} of shape {tuple(radius.shape)}"
            )
        if bool((radius.isnan() | (radius < 0)).any()):
            raise InputError(f"radius: expected values >= 0, got {float(radius[~(radius >= 0)][0]):g}")
        return radius if radius.dim() else float(radius)
    number = as_number(radius)
    if not number >= 0:
        raise InputError(
            f"radius: expected a number >= 0 in input units, or a [B] tensor of them, got {radius!r}"
        )
    return number


def check_box(box: Any) -> tuple[float, float]:
    """Return the ends of a box; InputError unless it is a pair of numbers in order."""
    edges = [as_number(edge) for edge in box] if isinstance(box, tuple | list) else []
    lo, hi = edges if len(edges) == 2 else (math.nan, math.nan)
    if not lo < hi:
        raise InputError(f"box: expected a pair of numbers (lo, hi) with lo < hi, got {box!r}")
    return lo, hi


@identity.register
def _(threat: Threat) -> str:
    return threat.metric
