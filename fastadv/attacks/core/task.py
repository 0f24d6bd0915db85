"""What an attack is asked, and who answers: made once by the door of a call, and handed on."""

from dataclasses import dataclass, replace
from typing import Any, Self, Unpack

import torch
from torch import Tensor

from fastadv import losses
from fastadv._waiting import surely_finite
from fastadv.attacks.core.arguments import CHECKS, SHARED, Common
from fastadv.attacks.core.checks import check_mask
from fastadv.attacks.core.classified import Classified, before, classified
from fastadv.attacks.core.criterion import WRONG, Criterion, fitting
from fastadv.attacks.core.points import taken
from fastadv.attacks.core.result import AttackResult
from fastadv.engine import Model, Prepared
from fastadv.engine.arguments import Outputs
from fastadv.engine.mapped import Mapped
from fastadv.errors import InputError
from fastadv.threat import Threat, Through

# What a task has of each sample
SAMPLES = ("x", "y", "targets", "ids", "rows", "mask", "clean")


@dataclass(frozen=True, eq=False, kw_only=True)
class Task(Classified):
    """Samples to attack, what a success is, and the classifier that is asked.

    Attributes:
        y: int64 [B], labels; or what else the criterion takes [B, ...].
        threat: the ball and box in which points must lie.
        targets: like y, what to reach, or None for anything but y.
        criterion: what a success must fulfill beyond the class.
        mask: bool like x, True where x may change; None lets all of x change.
        labeled: whether y was given; else it is what the criterion makes of the outputs at x.
        others: as in `Classified`.
    """

    y: Tensor
    threat: Threat
    targets: Tensor | None = None
    criterion: Criterion = WRONG
    mask: Tensor | None = None
    labeled: bool = True

    @classmethod
    def of(
        cls, model: Model | Prepared | Classified, x: Tensor, y: Tensor | None, threat: Threat, *,
        passes: int = 0, **common: Unpack[Common],
    ) -> "Task":  # fmt: skip
        """Return the task of a call, whose arguments, those of every attack, are checked by `CHECKS`.

        What is classified stands for its classifier, and for the logits at x. `freeze` says whether to search
        on a frozen copy; None decides by the `passes` of a sample that are planned.
        """
        given: dict[str, Any] = {name: value for name, value in common.items() if value is not None}
        given |= {"model": model, "x": x, "y": y, "threat": threat}
        call = {**SHARED, "criterion": WRONG, "passes": passes, **given}
        for name, check in CHECKS.items():
            if name in given:
                call[name] = check(given[name], call)
        held = classified(model, call["model"], x, call["x"], call["ids"])
        if isinstance(threat, Through):
            held, threat = before(held, threat), threat.ball
        y, mask, criterion = call["y"], call["mask"], call["criterion"]
        return cls(
            **vars(held),
            y=held.ids.new_zeros(len(held.ids), 2) if y is None else y,
            threat=_with_radii(threat, held.x),
            targets=call["targets"],
            # one logit is two of classes by now
            criterion=WRONG if criterion.outputs == "logit" else criterion.meant_by(held.classifier.model),
            mask=None if mask is None else check_mask(mask, held.x),
            labeled=y is not None,
        )

    @property
    def box(self) -> tuple[float, float]:
        """The box in which x lies."""
        return self.threat.box

    def take(self, index: Tensor) -> Self:
        """Return the task of the samples `index`, int [m] or bool [B]."""
        samples: dict[str, Any] = {name: taken(getattr(self, name), index) for name in SAMPLES}
        return replace(self, threat=self.threat.take(index), **samples)

    def within(self, threat: Threat) -> Self:
        """Return the task in another ball."""
        return replace(self, threat=threat)

    def towards(self, targets: Tensor) -> Self:
        """Return the task with other targets."""
        return replace(self, targets=targets)

    def seen(self, x: Tensor, clean: Tensor) -> Self:
        """Return the task with x in another layout, and the logits there."""
        return replace(self, x=x, clean=clean)

    @property
    def through(self) -> Through | None:
        """The map of parameters; None where x are images."""
        threat: Through | None = self.classifier.threat if isinstance(self.classifier, Mapped) else None
        return threat

    def with_images(self, out: AttackResult) -> AttackResult:
        """Return a result with the images of the parameters that an attack has found."""
        if not isinstance(mapped := self.classifier, Mapped):
            return out
        images = mapped.threat.image(out.x_adv, mapped.x[self.rows], self.ids)
        mapped.threat.check_images(images)
        return replace(out, x_adv=images, parameters=out.x_adv, threat=mapped.threat)

    @property
    def outputs(self) -> Outputs:
        return self.criterion.outputs

    @property
    def plain(self) -> bool:
        """Whether any wrong class at any point of the threat is a success."""
        return self.targets is None and self.criterion is WRONG and self.mask is None

    @property
    def single(self) -> bool:
        """Whether x and the logits there are in float32, which kernels take."""
        return self.clean is not None and self.clean.dtype == self.x.dtype == torch.float32

    @property
    def margin(self) -> losses.Loss:
        """The loss [B] that is positive where the criterion is met."""
        return "margin" if self.criterion is WRONG else self.criterion.margin

    @property
    def leading(self) -> losses.Loss:
        """The loss [B] that searches for the strongest point raise by default."""
        return "margin" if self.criterion is WRONG else self.criterion.leading

    def raised(self, minimum: bool) -> losses.Loss:
        """Return the loss that searches raise by default, for the nearest success where `minimum`."""
        return self.margin if minimum else self.leading

    @property
    def several(self) -> bool:
        """Whether a success takes several decisions at once."""
        return self.criterion.several(self.targets is not None)

    def checked(self, logits: Tensor, shape: torch.Size | None) -> Self:
        """Return the task, which the logits at x fit; of outputs of that shape these, if y is missing."""
        if not len(logits):
            return self
        y = fitting(self.criterion, logits, shape, self.y if self.labeled else None, self.targets)
        return self if self.labeled else replace(self, y=y, labeled=True)

    def met(self, logits: Tensor) -> Tensor:
        """Return bool [B], which logits [B, K] are finite and meet the criterion."""
        return self.judged(logits)[0]

    def judged(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `met` returns, and bool [B], which logits are finite."""
        met = self.criterion.met(logits, self.y, self.targets)
        if surely_finite(logits):  # in a quarter of the time
            return met, torch.ones_like(met)
        finite = logits.isfinite().all(1)
        return met & finite, finite

    def masked(self, points: Tensor) -> Tensor:
        """Return points [B, ...] or candidates [B, C, ...] with x wherever the mask allows no change."""
        if self.mask is None:
            return points
        if points.ndim == self.x.ndim:
            return torch.where(self.mask, points, self.x)
        return torch.where(self.mask.unsqueeze(1), points, self.x.unsqueeze(1))


def handed(model: object) -> Task:
    """Return the task that `takes_common` hands to an attack in place of the model."""
    if not isinstance(model, Task):
        raise InputError(f"model: expected the task that takes_common makes, got {type(model).__name__}")
    return model


def _with_radii(threat: Threat, x: Tensor) -> Threat:
    """Return a threat with radii on the device of x; InputError unless they are one for each sample."""
    radius = threat.radius
    if not isinstance(radius, Tensor):
        return threat
    if radius.shape != x.shape[:1]:
        raise InputError(
            f"radius: expected a number or one for each of {len(x)} samples, got shape {tuple(radius.shape)}"
        )
    return threat.with_radius(radius.to(x.device))
