"""A batch to attack, checked once."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_number
from fastadv._waiting import surely_finite
from fastadv.attacks.core.criterion import WRONG, Criterion, check_criterion, fitting
from fastadv.attacks.core.points import taken
from fastadv.attacks.special.bounded_outputs import bounded
from fastadv.attacks.special.labels import check_index
from fastadv.engine.arguments import plain
from fastadv.errors import InputError
from fastadv.threat import THREATS, Threat, Through
from fastadv.threat.base import box_in

StepSize = float | Tensor
ROWS = ("x", "y", "targets", "ids", "mask", "clean", "bounded")  # what a problem has of each sample


@dataclass(frozen=True, eq=False)
class Problem:
    """A batch to attack, and what a success is.

    Attributes:
        x: [B, ...], the clean samples.
        y: int64 [B], labels; or what else the criterion takes [B, ...].
        threat: the ball and box in which points must lie.
        targets: like y, what to reach, or None for anything but y.
        ids: int64 [B], sample numbers.
        criterion: what a success must fulfill beyond the class.
        mask: bool like x, True where x may change; None lets all of x change.
        clean: [B, K], the logits of the model as given at x; None before it has seen x.
        bounded: int64 [B], the interval into which outputs were squashed (`bounded_outputs.py`), or None.
        labeled: whether y was given; else it is what the criterion makes of the outputs at x.
    """

    x: Tensor
    y: Tensor
    threat: Threat
    targets: Tensor | None
    ids: Tensor
    criterion: Criterion = WRONG
    mask: Tensor | None = None
    clean: Tensor | None = None
    bounded: Tensor | None = None
    labeled: bool = True

    def take(self, index: Tensor) -> Self:
        """Return the problem of the samples `index`, int [m] or bool [B]."""
        rows: dict[str, Any] = {name: taken(getattr(self, name), index) for name in ROWS}
        return replace(self, threat=self.threat.take(index), **rows)

    def wide(self) -> Self:
        """Return the problem in float32, in the box as half precision holds it; itself where x is wider."""
        dtype = torch.promote_types(self.x.dtype, torch.float32)
        if dtype == self.x.dtype:
            return self
        return replace(self, x=self.x.to(dtype), threat=self.threat.held_in(self.x.dtype))

    def seen(self, x: Tensor, clean: Tensor, crowds: bool) -> "Problem":
        """Return the problem with x in another layout, and the logits there, which may crowd at an end."""
        return replace(self, x=x, clean=clean, bounded=bounded(clean) if crowds else None)

    @property
    def plain(self) -> bool:
        """Whether any wrong class at any point of the threat is a success."""
        return self.targets is None and self.criterion is WRONG and self.mask is None

    @property
    def margin(self) -> losses.Loss:
        """The loss [B] that is positive where the criterion is met."""
        return "margin" if self.criterion is WRONG else self.criterion.margin

    @property
    def leading(self) -> losses.Loss:
        """The loss [B] that searches for the strongest point raise by default."""
        return "margin" if self.criterion is WRONG else self.criterion.leading

    @property
    def several(self) -> bool:
        """Whether a success takes several decisions at once."""
        return self.criterion.several(self.targets is not None)

    def right(self, logits: Tensor) -> Tensor:
        """Return bool [B], which logits [B, K] are right without an attack."""
        criterion = self.criterion
        of_outputs = type(criterion).right is not Criterion.right or criterion.outputs == "any"
        return (
            criterion.right(logits, self.y)
            if of_outputs or self.targets is None
            else logits.argmax(1) == self.y
        )

    def checked(self, logits: Tensor, shape: torch.Size | None) -> "Problem":
        """Return the problem, which the logits at x fit; of outputs of that shape these, if y is missing."""
        if not len(logits):
            return self
        y = fitting(self.criterion, logits, shape, self.y if self.labeled else None, self.targets)
        return self if self.labeled else replace(self, y=y, labeled=True)

    def met(self, logits: Tensor) -> Tensor:
        """Return bool [B], which logits [B, K] are finite and meet the criterion."""
        return self.judged(logits)[0]

    def judged(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what `met` returns, and bool [B], which are finite; None where all surely are."""
        met = self.criterion.met(logits, self.y, self.targets)
        if surely_finite(logits):
            return met, None
        finite = logits.isfinite().all(1)
        return met & finite, finite

    def masked(self, points: Tensor) -> Tensor:
        """Return points [B, ...] or candidates [B, C, ...] with x wherever the mask allows no change."""
        if self.mask is None:
            return points
        if points.ndim == self.x.ndim:
            return torch.where(self.mask, points, self.x)
        return torch.where(self.mask.unsqueeze(1), points, self.x.unsqueeze(1))


def problem(
    x: Tensor, y: Tensor | None, threat: Threat, *, targets: Tensor | None = None,
    criterion: Criterion | None = None, mask: Tensor | None = None, ids: Tensor | None = None,
) -> Problem:  # fmt: skip
    check_threat(threat)
    criterion = check_criterion(criterion).for_labels(y)
    x = check_images(x, threat.box)
    size = len(x)
    several = y is None or (isinstance(y, Tensor) and (y.numel() > 1 or y.shape == (size,)))
    if x.ndim == 3 and not several:
        raise InputError(
            f"x: expected a batch [B, C, H, W], got one image {list(x.shape)} and one label; add a batch "
            "dimension: x[None], and y as a tensor [1]"
        )
    if criterion.outputs == "any" and not size:  # no sample meets anything
        return problem(x, torch.zeros(0, dtype=torch.long, device=x.device), threat, mask=mask)
    labels = criterion.labels("y", y, size, x.device)
    if targets is not None:
        targets = criterion.labels("targets", targets, size, x.device)
    ids = torch.arange(size, device=x.device) if ids is None else check_index("ids", ids, size, x.device)
    if isinstance(threat.radius, Tensor) and threat.radius.ndim:
        if threat.radius.shape != (size,):
            raise InputError(
                f"radius: expected a number or one for each of {size} samples, "
                f"got shape {tuple(threat.radius.shape)}"
            )
        threat = threat.with_radius(threat.radius.to(x.device))
    if criterion.outputs == "logit":  # of two classes
        criterion = WRONG
    # without labels the trial makes some of the outputs at x
    y = ids.new_zeros(size, 2) if labels is None else labels
    mask = None if mask is None else check_mask(mask, x)
    return Problem(x, y, threat, targets, ids, criterion, mask, labeled=labels is not None)


def from_bytes(x: Any, box: tuple[float, float]) -> Any:
    """Return images of uint8 as float32 in [0, 1], as data sets serve them, and others as they are."""
    if not isinstance(x, Tensor) or x.dtype != torch.uint8:
        return x
    if box != (0, 1):
        raise InputError(
            f"x: expected floating values in the box [{box[0]:g}, {box[1]:g}], got uint8, which is served in "
            "[0, 1]; convert x yourself, or give the threat the box (0, 1)"
        )
    return x.float().div_(255)


def check_images(x: Tensor, box: tuple[float, float], values: bool = True) -> Tensor:
    """Return images [B, ...] detached; InputError for others, or `values` outside the box, which are read."""
    x = from_bytes(x, box)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        arrays = "convert arrays with torch.as_tensor(x), integer images with x.float() / 255"
        raise InputError(
            f"x: expected a floating tensor [B, ...] of rank 2 or more, got {got}; "
            + ("pass its x_adv" if hasattr(x, "x_adv") else arrays)
        )
    x = plain(x)
    if x.device.type == "meta":
        raise InputError("x: expected a tensor with values, got one on meta; load it first")
    if values:
        _check_values(x, box)
    return x


def check_threat(threat: Threat, maps: bool = False) -> None:
    """Raise InputError unless it is a threat; a map of parameters is none here unless `maps`."""
    if not isinstance(threat, Threat):
        raise InputError(
            f"threat: expected fa.Linf, L2, L1 or L0, got {threat!r}; a radius needs a norm: fa.Linf(8 / 255)"
        )
    if isinstance(threat, Through) and not maps:
        raise InputError(
            f"threat: expected fa.Linf, L2, L1 or L0, got {threat.name}, a map of parameters, which serves "
            "attacks and fa.evaluate alone"
        )


def check_norm(name: str, threat: Threat, norms: tuple[str, ...]) -> None:
    """Check that a threat has a norm that an attack serves.

    Args:
        name: of the attack, for the message.
        threat: what the caller gave.
        norms: that the attack serves, such as ("linf", "l2").

    Raises:
        InputError: it is no threat model, or one of another norm.
    """
    check_threat(threat)
    if threat.norm not in norms:
        kinds = ", ".join(THREATS[norm].__name__ for norm in norms)
        raise InputError(f"threat: expected one of {kinds}, which {name} serves, got {type(threat).__name__}")


def check_finite_radius(threat: Threat) -> None:
    """Check that the radius of a threat is finite for every sample.

    Args:
        threat: what the caller gave.

    Raises:
        InputError: it is no threat model, or its radius is infinite.
    """
    check_threat(threat)
    if not threat.finite:
        raise InputError("radius: expected a finite one, got an infinite one; give the budget of the attack")


def check_finite_box(name: str, threat: Threat) -> None:
    if not all(map(math.isfinite, threat.box)):
        raise InputError(f"box: expected a finite one, whose ends {name} uses, got {threat.box}")


def check_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Return the mask as bool like x; InputError unless it is bool, fits, and lets each sample move."""
    got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    wanted = f"mask: expected a bool tensor that broadcasts to x {tuple(x.shape)}, True where x may move"
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.device != x.device:
        raise InputError(f"{wanted}, on its device, got {got}")
    try:
        mask = mask.expand_as(x)
    except RuntimeError:
        raise InputError(f"{wanted}, got {got}") from None
    if len(x) and not bool(mask.flatten(1).any(1).all()):
        raise InputError("mask: expected a coordinate that may move in each sample, got none in some")
    return mask


def check_step_size(step_size: StepSize, x: Tensor, name: str = "step_size") -> StepSize:
    """Return the step size if it is a finite number >= 0, or [B] of them; raise InputError otherwise."""
    if not isinstance(step_size, Tensor) or step_size.ndim == 0:
        return check_number(name, step_size, 0)
    if not isinstance(x, Tensor) or not x.ndim:
        return step_size  # the check of the problem says what is wrong with x
    if (
        step_size.shape != x.shape[:1]
        or step_size.dtype == torch.bool
        or step_size.is_complex()
        or not bool((step_size.isfinite() & (step_size >= 0)).all())
    ):
        raise InputError(
            f"{name}: expected finite numbers >= 0, one for each of {len(x)} samples, "
            f"got {step_size.dtype} {tuple(step_size.shape)}: {step_size.tolist()}"
        )
    return step_size.to(x.device)


def _check_values(x: Tensor, box: tuple[float, float]) -> None:
    if x.numel() == 0:
        return
    least, most = torch.stack(x.aminmax()).tolist()  # one read
    if not (math.isfinite(least) and math.isfinite(most)):
        bad = int((~x.isfinite()).sum())
        raise InputError(f"x: expected finite values, got {bad} NaN or infinite; clean the data first")
    low, high = box_in(box, x.dtype)
    beyond = any(math.isfinite(end) != math.isfinite(at) for end, at in zip(box, (low, high), strict=True))
    if beyond or low == high:
        raise InputError(
            f"box: expected ends that {x.dtype} holds and tells apart, got {box}; give x a wider dtype"
        )
    if least < low or most > high:
        raise InputError(
            f"x: expected values in the box [{box[0]:g}, {box[1]:g}], "
            f"got [{least:g}, {most:g}]; set the threat's box, "
            "or keep x in it and normalize inside the model (fastadv.models.Normalized)"
        )
