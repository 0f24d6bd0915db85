"""What an attack wants of the model's decision."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fastadv._checks import check_choice
from fastadv.engine.arguments import Outputs
from fastadv.errors import InputError
from fastadv.labels import check_classes, check_index, check_targets
from fastadv.losses import LOSSES, Loss, LossFunction

Figures = dict[str, tuple[Tensor, Tensor]]
ERRORS = {"MAE": 1.0, "RMSE": 0.5}  # figures that are no shares, but rise: the power of their ratio


@dataclass(frozen=True)
class Criterion:
    """What counts as a success: here, a class other than y or, where targets are given, the target.

    A subclass asks for more. In its methods logits are [B, K]; y and the targets, if any, are int [B]. One
    whose `outputs` are "any" takes what the model returns, or that as rows [B, N], with labels of its own.
    """

    outputs: ClassVar[Outputs] = "classes"
    losses: ClassVar[tuple[str, ...]] = LOSSES  # by name; of other outputs the first is the default

    @property
    def counted(self) -> str:
        """What tables call the share of samples that are right."""
        return "accuracy"

    @property
    def whole(self) -> str:
        """The criterion under which no search ends before the figures are at their worst; "" for this one."""
        return ""

    def several(self, targeted: bool) -> bool:
        """Return whether a success takes several decisions at once, which long steps turn one by one."""
        return False

    @property
    def fixed(self) -> bool:
        """Whether it calls none of the caller's functions, which may read values."""
        return type(self).__module__.startswith("fastadv.")

    def meant_by(self, model: Any) -> "Criterion":
        """Return the criterion as `model` means its logits."""
        return self

    def for_labels(self, y: Any) -> "Criterion":
        """Return the criterion for labels like y."""
        return self

    def labels(self, name: str, y: Any, size: int, device: torch.device) -> Tensor | None:
        """Return y or the targets, by `name`, as the methods take them; InputError where they are none."""
        return check_index(name, y, size, device)

    @property
    def raises(self) -> bool:
        """Whether it has a loss of its own, which searches raise by default."""
        return type(self) is not Criterion and self.outputs != "logit"

    def loss(self, name: str) -> Loss:
        """Return the loss of a name among `losses`."""
        return check_choice("loss", name, self.losses, " or a function (logits, y, targets) -> [B]")

    def followed(self, loss: Loss) -> Loss:
        """Return the loss that a search follows where an attack is given this one."""
        if not callable(loss):
            return self.loss(loss)
        of_logits = self.outputs != "any" or getattr(loss, "__self__", None) is self
        return loss if of_logits else partial(self._in_shape, loss)

    def _in_shape(self, loss: LossFunction, rows: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return loss(self.in_shape(rows, y), y, targets)

    def in_shape(self, rows: Tensor, y: Tensor) -> Tensor:
        """Return rows [B, N] as the model returned them, for losses that are functions of the caller's."""
        return rows

    def of_single(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """Return logits [N, K] of single decisions, which tell of a head that squashes; None of others."""
        return outputs if self.outputs == "classes" else None

    def objective(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return [B], what training minimizes."""
        return cross_entropy(outputs, y, reduction="none")

    def rising(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], what the attack of adversarial training raises."""
        return self.objective(outputs, y)

    def reference(self, outputs: Tensor) -> Tensor:
        """Return what takes the place of y where that is None, by the outputs at x."""
        raise InputError("y: expected labels, got None; Beyond(distance) alone takes none")

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        """Raise InputError where labels do not fit the outputs, or none can ever meet the criterion."""
        check_classes("y", y, outputs.shape[1])
        if targets is not None:
            self.check_targeted()
            check_classes("targets", targets, outputs.shape[1])
            check_targets(y, targets)

    def check_labels(self, name: str, y: Tensor, width: int) -> None:
        """Raise InputError where labels cannot be those of outputs of so many values a sample."""

    def check_targeted(self) -> None:
        """Raise InputError where it takes no targets."""

    def figures(self, outputs: Tensor, y: Tensor) -> Figures:
        """Return what a table shows beside the accuracy: by name, two sums [B, C] for each sample.

        A figure is the ratio of both, added up over samples, and its mean over the C columns whose second sum
        is not 0; of `ERRORS` the power that stands there. Outputs of a sample that are not all finite decide
        nothing, whatever its first sum is.
        """
        return {}

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return bool [B], which logits are a success."""
        decided = logits.argmax(1)
        return decided != y if targets is None else decided == targets

    def decisions(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Return, of several decisions, how many are as wanted and how many must be, int [B]; None of one.

        Points of a sample compete by the first, before the loss.
        """
        return None

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return bool [B], which logits count as right without an attack: those that are no success."""
        return ~self.met(logits, y, None)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], positive exactly where the logits are a success, and differentiable.

        Here it is the largest other logit minus the label's; with targets, theirs minus the largest other.
        """
        return signed(ahead(logits, y, targets), self.met(logits, y, targets))

    def leading(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], what an ascent raises by default: the margin, or what leads to a success better."""
        return self.margin(logits, y, targets)

    def ways(self, y: Tensor, targets: Tensor | None, minimum: bool) -> "tuple[Criterion, ...]":
        """Return criteria that lead to its successes in different ways, which share the steps of a search."""
        return (self,)

    def rivals(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return int64 [B, C], the classes to which an ascent may lead, the largest logit first."""
        others = logits.scatter(1, y[:, None], -torch.inf)
        return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


class OfClass(Criterion):
    """A criterion that asks for more than a wrong class; what is right is the class all the same."""

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits.argmax(1) == y


def signed(margin: Tensor, met: Tensor) -> Tensor:
    """Return a margin [B], positive exactly where bool [B] `met`: ties and rounding would say otherwise."""
    least = torch.full_like(margin, torch.finfo(margin.dtype).tiny).where(met, 0.0)
    return torch.where((margin > 0) == met, margin, least + (margin - margin.detach()))


def ahead(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """Return [B], the largest other logit minus the label's; with targets, theirs minus the largest other."""
    index = (y if targets is None else targets)[:, None]
    at_label = logits.gather(1, index).squeeze(1)
    other = logits.scatter(1, index, -torch.inf).amax(1)
    return other - at_label if targets is None else at_label - other


WRONG = Criterion()


@dataclass(frozen=True, eq=False)
class Goal:
    """What a success must meet, what it must reach [B, ...], and where x [B, ...] may change.

    No targets stand for anything but y, no mask for everywhere.
    """

    criterion: Criterion = WRONG
    targets: Tensor | None = None
    mask: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether what the criterion counts as right fails at every success, at any point of the threat."""
        at_label = self.criterion is WRONG or self.criterion.outputs == "any"
        return at_label and self.targets is None and self.mask is None


ANY_WRONG = Goal()


def decides_by_class(criterion: Any) -> bool:
    """Return whether what is right is the class y; None stands for any wrong class."""
    inside = getattr(criterion, "inside", criterion)
    return inside is None or type(inside) is Criterion or isinstance(inside, OfClass)


def check_criterion(criterion: Any) -> Criterion:
    """Return `criterion`, or `WRONG` for None; InputError unless it is one."""
    if criterion is None:
        return WRONG
    if not isinstance(criterion, Criterion):
        raise InputError(
            "criterion: expected None, ConfidentlyWrong(confidence), WrongBy(lead), OutsideTopK(k), "
            "Unless(reject), or of other outputs Signs(), Share(least), Beyond(distance), "
            f"got {criterion!r}"
        )
    return criterion


def fitting(
    criterion: Criterion, logits: Tensor, shape: torch.Size | None, y: Tensor | None, targets: Tensor | None
) -> Tensor:
    """Return y, which the logits of outputs of that shape fit; what they make of it where it is None."""
    outputs = logits
    if shape is not None:  # of one number z a search takes (0, z)
        outputs = logits[:, -max(1, shape.numel()) :].reshape(len(logits), *shape)
    y = criterion.reference(outputs) if y is None else y
    criterion.check(outputs, y, targets)
    if not type(criterion).margin.__module__.startswith("fastadv."):  # which met alone may narrow
        met, margin = criterion.met(logits, y, targets), criterion.margin(logits, y, targets)
        opposite = int(torch.where(met, margin < 0, margin > 0).sum())
        if 2 * opposite > len(logits):
            raise InputError(
                "criterion: expected a margin above 0 where met is True and below 0 elsewhere, got the "
                f"opposite for {opposite} of {len(logits)} samples; is its sign wrong?"
            )
    return y


def outputs_for(criterion: Criterion | None, y: Any) -> Outputs:
    """Return which outputs a search takes for labels y."""
    return "classes" if criterion is None else criterion.for_labels(y).outputs
