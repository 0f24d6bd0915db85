"""What an attack wants of the model's decision."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fastadv._checks import check_choice, check_count, check_number, check_share
from fastadv.engine.arguments import Outputs
from fastadv.errors import InputError
from fastadv.labels import check_classes, check_index, check_targets
from fastadv.losses import LOSSES, Loss, log_confidence, loss_and_grad

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

    def loss(self, name: str) -> Loss:
        """Return the loss of a name among `losses`."""
        return check_choice("loss", name, self.losses)

    def of_classes(self, name: str) -> Loss:
        """Return the loss of a name where outputs are classes."""
        return name

    def in_shape(self, rows: Tensor, y: Tensor) -> Tensor:
        """Return rows [B, N] as the model returned them, for losses that are functions of the caller's."""
        return rows

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
        return signed(_lead(logits, y, targets), self.met(logits, y, targets))

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


class _OfClass(Criterion):
    """A criterion that asks for more than a wrong class; what is right is the class all the same."""

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits.argmax(1) == y


@dataclass(frozen=True)
class ConfidentlyWrong(_OfClass):
    """A success needs a wrong class (the target, where one is given) of at least this probability.

    The probability is the softmax, or what else the model means by its logits: see
    `fastadv.losses.log_confidence`.

    Args:
        confidence: the least probability, in (0, 1).

    Raises:
        InputError: the confidence is outside (0, 1).

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> sure = fa.attacks.ConfidentlyWrong(0.5)
        >>> out = fa.attacks.pgd(model, x, y, fa.Linf(0.5), criterion=sure)
        >>> bool((model(out.x_adv).softmax(1).amax(1) >= 0.5)[out.success].all())
        True
    """

    confidence: float

    def __post_init__(self) -> None:
        check_share("confidence", self.confidence)

    def meant_by(self, model: Any) -> "ConfidentlyWrong":
        return _Told(self.confidence, model) if hasattr(model, "log_confidence") else self

    def as_probabilities(self, logits: Tensor) -> Tensor:
        """Return [B, K], the log probability of each class."""
        return logits.log_softmax(1)

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().met(logits, y, targets) & (self._sure(logits, y, targets) >= 0)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], what the wrong class or the target lacks of its confidence, or of being decided."""
        lacking = torch.minimum(self._sure(logits, y, targets), _lead(logits, y, targets))
        return signed(lacking, self.met(logits, y, targets))

    def _sure(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the log probability of the wrong class or the target minus that of the confidence."""
        log_probabilities = self.as_probabilities(logits)
        if targets is None:
            wrong = log_probabilities.scatter(1, y[:, None], -torch.inf).amax(1)
        else:
            wrong = log_probabilities.gather(1, targets[:, None]).squeeze(1)
        return wrong - torch.log(torch.tensor(self.confidence, dtype=logits.dtype, device=logits.device))


@dataclass(frozen=True)
class _Told(ConfidentlyWrong):
    model: Any = field(repr=False)
    fixed = False

    def as_probabilities(self, logits: Tensor) -> Tensor:
        return log_confidence(self.model, logits)


@dataclass(frozen=True)
class WrongBy(_OfClass):
    """A success needs a wrong logit (the target's, where one is given) that exceeds the others by a lead.

    Without targets the largest wrong logit must exceed that of the label; with targets the target's logit
    must exceed all others.

    Args:
        lead: the least difference, a number >= 0, in units of the logits.

    Raises:
        InputError: the lead is negative or not finite.

    Source:
        Carlini and Wagner 2017 (arXiv 1608.04644), section V: the confidence kappa.
    """

    lead: float

    def __post_init__(self) -> None:
        check_number("lead", self.lead, 0)

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().met(logits, y, targets) & (_lead(logits, y, targets) >= self.lead)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return signed(_lead(logits, y, targets) - self.lead, self.met(logits, y, targets))


@dataclass(frozen=True)
class OutsideTopK(_OfClass):
    """A success needs a label that is not among the k classes with the largest logits.

    It takes no targets.

    Args:
        k: an integer >= 1 and below the number of classes.

    Raises:
        InputError: k is not an integer >= 1. One that is too large for the model is an error of the attack.
    """

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k, 1)

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        super().check(outputs, y, targets)
        if self.k >= (classes := outputs.shape[1]):
            raise InputError(
                f"criterion: expected k below the {classes} classes of the model, got {self.k}; "
                "every class is among that many"
            )

    def check_targeted(self) -> None:
        raise InputError("criterion: expected no targets with OutsideTopK, got some; leave one out")

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        at_label, place = logits.gather(1, y[:, None]), torch.arange(logits.shape[1], device=y.device)
        ahead = (logits > at_label) | ((logits == at_label) & (place < y[:, None]))  # as argmax
        return ahead.sum(1) >= self.k

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the k-th largest of the other logits minus that of the label."""
        return signed(self._leads(logits, y)[:, -1], self.met(logits, y, targets))

    def leading(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the mean of what the k largest other logits lack, or the margin where it is > 0."""
        leads = self._leads(logits, y)
        return torch.where(leads[:, -1] > 0, leads[:, -1], leads.clamp_max(0).mean(1))

    def _leads(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return [B, k], by how much the largest other logits exceed that of the label."""
        index = y[:, None]
        return logits.scatter(1, index, -torch.inf).topk(self.k, 1).values - logits.gather(1, index)

    def rivals(self, logits: Tensor, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), 0)  # none of several classes decides


@dataclass(frozen=True)
class Unless(_OfClass):
    """A success needs a wrong class that is not the class by which the model abstains.

    A clean image on which the model abstains is not right; a table counts such samples.

    Args:
        reject: the number of the class by which the model abstains; a negative one counts from the end.

    Raises:
        InputError: `reject` is no integer, or a label or target is that class.
    """

    reject: int

    def __post_init__(self) -> None:
        check_count("reject", self.reject, -(1 << 31))

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        super().check(outputs, y, targets)
        if outputs.shape[1] < 3:
            raise InputError("criterion: expected three classes or more with Unless, got a model of two")
        if not -outputs.shape[1] <= self.reject < outputs.shape[1]:
            raise InputError(
                f"reject: expected one of the {outputs.shape[1]} classes of the model, got {self.reject}"
            )
        for name, labels in (("y", y), ("targets", targets)):
            if labels is not None and bool((labels == self._place(outputs)).any()):
                raise InputError(f"{name}: expected classes other than reject={self.reject}, got it")

    def _place(self, logits: Tensor) -> int:
        return self.reject % logits.shape[1]

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return super().met(logits, y, targets) & (logits.argmax(1) != self._place(logits))

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], the largest wrong logit minus the larger of those of the label and of `reject`."""
        if targets is not None:
            return super().margin(logits, y, targets)
        over_reject = self._wrong(logits, y) - logits[:, self._place(logits)]
        margin = torch.minimum(self._over_label(logits, y, targets), over_reject)
        return signed(margin, self.met(logits, y, targets))

    def leading(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], by how much a wrong class leads over the label; above 0, what it has of the margin."""
        # The margin alone would stop between the classes, where the model abstains. From there on the loss is
        # positive and rises with the margin, which is still negative.
        margin, lead = self.margin(logits, y, targets), self._over_label(logits, y, targets)
        beyond = torch.where(margin > 0, 1 + margin, 1 / (1 - margin.clamp_max(0)))
        return torch.where(lead > 0, beyond, lead)

    def _over_label(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        """Return [B], by how much the target, or the largest wrong class, leads over the label."""
        wrong = self._wrong(logits, y) if targets is None else logits.gather(1, targets[:, None]).squeeze(1)
        return wrong - logits.gather(1, y[:, None]).squeeze(1)

    def _wrong(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return [B], the largest logit of a class that is neither the label nor `reject`."""
        right = torch.stack([y, torch.full_like(y, self._place(logits))], 1)
        return logits.scatter(1, right, -torch.inf).amax(1)

    def ways(self, y: Tensor, targets: Tensor | None, minimum: bool) -> tuple[Criterion, ...]:
        """Return one that passes abstention between the classes, and one that opposes it at once."""
        return (_Passing(self.reject), self) if minimum else (self, _Opposed(self.reject))

    def of_classes(self, name: str) -> Loss:
        """Return the loss without the logit of `reject`, to which an ascent of all would lead."""
        if name == "margin":
            return self.margin

        def loss(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            place = self._place(logits)
            rows = torch.cat([logits[:, :place], logits[:, place + 1 :]], 1)
            aim = None if targets is None else targets - (targets > place).to(targets)
            value, slope = loss_and_grad(rows, y - (y > place).to(y), name, aim)
            return value + (slope * (rows - rows.detach())).sum(1)

        return loss

    def rivals(self, logits: Tensor, y: Tensor) -> Tensor:
        place = torch.full_like(y, self._place(logits))[:, None]
        return super().rivals(logits.scatter(1, place, -torch.inf), y)[:, :-1]

    def figures(self, outputs: Tensor, y: Tensor) -> Figures:
        abstained = (outputs.argmax(1) == self._place(outputs)).double()[:, None]
        return {"abstained": (abstained, torch.ones_like(abstained))}


@dataclass(frozen=True)
class _Opposed(Unless):
    """The same, whose searches for the strongest point raise the margin."""

    def leading(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.margin(logits, y, targets)


@dataclass(frozen=True)
class _Passing(Unless):
    """The same, whose searches for the nearest success pass between the classes, where the margin is flat."""

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        lead = self._over_label(logits, y, targets)
        return torch.where(lead >= 0, super().margin(logits, y, targets), lead)


def signed(margin: Tensor, met: Tensor) -> Tensor:
    """Return a margin [B], positive exactly where bool [B] `met`: ties and rounding would say otherwise."""
    least = torch.full_like(margin, torch.finfo(margin.dtype).tiny).where(met, 0.0)
    return torch.where((margin > 0) == met, margin, least + (margin - margin.detach()))


def _lead(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
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
    return inside is None or type(inside) is Criterion or isinstance(inside, _OfClass)


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
