"""Through: the images that a map makes of parameters in a ball."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Self

import torch
from torch import Tensor

from fastadv._checks import kind_of
from fastadv.errors import InputError
from fastadv.ops._rows import PerRow
from fastadv.threat.base import Threat, check_box

UNIT = 1.0, float("inf")  # radii that a name stands for


@dataclass(frozen=True, eq=False, repr=False)
class Named(Threat):
    """A threat that tables know by its name, with a radius and a box: what is left of a `Through` there.

    Args:
        name: of the threat.
        others: as in `Threat`.
    """

    order = math.inf
    name: str = field(default="", kw_only=True)
    _does: str = field(default="", kw_only=True)  # its `metric`, which a name does not tell
    _apart = (*Threat._apart, "name")

    @property
    def metric(self) -> str:
        return self._does or super().metric

    @property
    def norm(self) -> str:  # type: ignore[override]
        return self.name

    @property
    def symbol(self) -> str:  # type: ignore[override]
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text})"

    @property
    def text(self) -> str:
        """The name, with the radius where that is not the one the name stands for."""
        if isinstance(self.radius, Tensor):
            return f"{self.name}, a radius for each sample"
        return self.name if self.radius in UNIT else f"{self.name} {self.radius:g}"


class Own(Named):
    """What is left in a table of a norm of the caller's own."""

    @property
    def text(self) -> str:
        return f"{self.name} {self.radius:g}" if self.finite else f"{self.name}, any radius"


def _of_ball(name: str) -> Any:
    """Return the method of this name of the ball, whose points are parameters."""

    @wraps(getattr(Threat, name))
    def method(self: "Through", *args: Any, **kwargs: Any) -> Any:
        return getattr(self.ball, name)(*args, **kwargs)

    return method


@dataclass(frozen=True, eq=False, repr=False)
class Through(Named):
    """All images map(x, t) of parameters t in a ball around those that leave x as it is.

    Attacks and `fastadv.evaluate` take it as they take a ball. The search is one for parameters: steps,
    projections, random starts, radius and distance are those of the ball, and so are arguments of an attack
    that are like x, such as `mask` and `starts`. In the result, x_adv are the images and `parameters` what
    they are made of; `image(parameters, x)` gives them again. The ids of a call must differ from each other.

    A map may have the arguments `ids`, int [B], the sample numbers, and `draw`, a number, on which random
    choices depend, through `fastadv.rng` alone. `still` may have them, too. An attack asks for draw 0 alone.

    Args:
        map: (x [B, ...], t [B, ...]) -> images like x, one row from one row, differentiable in t. Images
            outside the box are an error: let it clamp them.
        ball: a threat around still(x), such as `fa.Linf(1, box=(-1, 1))`; its radius is that of the threat.
        still: x -> t with map(x, t) == x, bit for bit.
        box: (lo, hi) of valid images. The default is [0, 1].
        name: in tables; the default is that of the map.

    Attributes:
        radius: that of the ball.

    Raises:
        InputError: the ball is none, map or still cannot be called, or the box is empty.

    Example:
        >>> import torch, fastadv as fa
        >>> def brighter(x, t):
        ...     return (x + t.view(-1, 1, 1, 1)).clamp(0, 1)
        >>> threat = fa.Through(brighter, fa.Linf(0.2, box=(-1, 1)), still=lambda x: x.new_zeros(len(x), 1))
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> out = fa.attacks.pgd(model, x, model(x).argmax(1), threat, steps=5)
        >>> torch.equal(threat.image(out.parameters, x), out.x_adv)
        True
    """

    radius: PerRow = field(init=False)
    box: tuple[float, float] = field(default=(0.0, 1.0), kw_only=True)
    _does: str = field(init=False, default="")
    map: Callable[..., Tensor]
    ball: Threat
    still: Callable[..., Tensor] = field()

    project = _of_ball("project")
    step = _of_ball("step")
    step_ = _of_ball("step_")
    random_start = _of_ball("random_start")
    distance = _of_ball("distance")
    default_step_size = _of_ball("default_step_size")

    def __post_init__(self) -> None:
        if not isinstance(self.ball, Threat) or isinstance(self.ball, Named):
            raise InputError(
                f"ball: expected fa.Linf, L2, L1 or L0, in which parameters lie, got {self.ball!r}; "
                "put maps together in one function"
            )
        for name in ("map", "still"):
            if not callable(value := getattr(self, name)):
                raise InputError(f"{name}: expected a function, got {type(value).__name__}; see fa.Through")
        object.__setattr__(self, "radius", self.ball.radius)
        object.__setattr__(self, "box", check_box(self.box))
        kind = getattr(self.map, "__name__", type(self.map).__name__)
        object.__setattr__(self, "name", self.name or f"Through {kind}")

    def image(self, t: Tensor, x: Tensor, ids: Tensor | None = None, draw: int = 0) -> Tensor:
        """Return the images of parameters t at x, in the dtype of x."""
        wide = torch.promote_types(torch.promote_types(t.dtype, x.dtype), torch.float32)
        # copies, into which a map may write
        image = self.map(x.to(wide, copy=True), t.to(wide, copy=True), **_drawn(self.map, x, ids, draw))
        if not isinstance(image, Tensor) or image.shape != x.shape:
            got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"map: expected images like x {tuple(x.shape)} from {self.name}, got {got}")
        return image.to(x.dtype)

    def parameters(self, x: Tensor, ids: Tensor | None = None, draw: int = 0) -> Tensor:
        """Return still(x); InputError unless its images are x, bit for bit, and x are images of the box."""
        t = self.still(x.clone(), **_drawn(self.still, x, ids, draw))
        if not isinstance(t, Tensor) or not t.is_floating_point() or t.ndim < 2 or len(t) != len(x):
            raise InputError(f"still: expected floating parameters [{len(x)}, ...], got {kind_of(t)}")
        t = t.detach()
        if not torch.equal(image := self.image(t, x, ids, draw), x):
            apart = float((image.double() - x.double()).abs().max())
            raise InputError(
                f"still: expected parameters at which {self.name} leaves x as it is, bit for bit, "
                f"got images that differ by up to {apart:g}"
            )
        return t

    def check_images(self, images: Tensor) -> None:
        """Raise InputError unless all images lie in the box."""
        low, high = self.box
        if not bool(((images >= low) & (images <= high)).all()):
            raise InputError(
                f"map: expected images in the box [{low:g}, {high:g}], got values from {images.min():g} to "
                f"{images.max():g} of {self.name}; end it with .clamp({low:g}, {high:g}), or set the box"
            )

    def contains(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Raise InputError: which images a map reaches is not known."""
        raise InputError(
            "contains: expected parameters, got images, of which nobody knows whether the map reaches them; "
            "ask threat.ball.contains(out.parameters, threat.still(x))"
        )

    measure = contains  # type: ignore[assignment]

    def take(self, index: Tensor) -> Self:
        return replace(self, ball=self.ball.take(index))

    def with_radius(self, radius: PerRow) -> Self:
        return replace(self, ball=self.ball.with_radius(radius))

    def resized(self, radius: PerRow) -> Self:
        return replace(self, ball=self.ball.resized(radius))

    def describe(self) -> dict[str, Any]:
        """Return what a run knows of it, with functions, which `runs.identity` knows by their source."""
        functions = {"map": self.map, "still": self.still}
        return {"name": self.name, "ball": self.ball, "box": list(self.box), **functions}


def _drawn(function: Callable[..., Tensor], x: Tensor, ids: Tensor | None, draw: int) -> dict[str, Any]:
    """Return those of the arguments `ids` and `draw` that a function has."""
    try:
        has = inspect.signature(function).parameters
    except (TypeError, ValueError):  # as of functions in C
        return {}
    numbers = torch.arange(len(x), device=x.device) if ids is None and "ids" in has else ids
    return {name: value for name, value in (("ids", numbers), ("draw", draw)) if name in has}


def straight(values: Tensor, moved: Tensor) -> Tensor:
    """Return the values, with the gradient of what `moved` would be without a limit."""
    # one that ends at a limit would hold parameters beyond it, where a random start may put them
    return values.detach() + (moved - moved.detach())
