"""What recipes share: checks of their arguments, starts, and losses."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from inspect import unwrap
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_number, check_share, warn
from fastadv._torch import parts_of
from fastadv._waiting import waits
from fastadv.attacks.core.criterion import Criterion, outputs_for
from fastadv.engine import Prepared
from fastadv.engine.arguments import TWO_INPUTS, check_logits
from fastadv.engine.mode import InEval
from fastadv.engine.room import ran_out
from fastadv.errors import InputError
from fastadv.labels import check_index
from fastadv.last_iterate import last_iterate
from fastadv.losses import Loss, _value, binary_cross_entropy
from fastadv.text import first_line
from fastadv.threat import Threat
from fastadv.threat.checks import check_threat
from fastadv.train.recipes._followers import follower, in_run
from fastadv.train.recipes.base import is_missing, labels_or_outputs

_last_iterate: Callable[..., Tensor] = unwrap(last_iterate)  # `Crafted` sees to torch.compile
OBJECTIVES = ("ce", "bce")  # the cross-entropy of a softmax, or of a sigmoid for each class
FAR = 3.0  # times the loss of equal probabilities, above which a model is worse than a fresh one
_judged: "WeakSet[nn.Module]" = WeakSet()  # models whose first loss was looked at
TRAINED = " or a function (logits, y, targets) -> [B], which is trained; an attack ascends `attack_loss`"


def check_finite(threat: Threat, why: str) -> None:
    """Raise InputError unless `threat` has one radius, and a finite one, which `why` needs."""
    check_threat(threat)
    threat.check_one_radius()
    if not threat.finite:
        raise InputError(f"radius: expected a finite one for {why}, got inf; give a number")


def check_steps(threat: Threat, steps: int, step_size: float | None) -> None:
    """Raise InputError unless such steps can be taken; without a length the radius must be finite."""
    check_threat(threat)
    threat.check_one_radius()
    check_count("steps", steps, 1)
    step_length(threat, step_size, steps)


def check_positive(name: str, value: float) -> float:
    if (number := check_number(name, value)) <= 0:
        raise InputError(f"{name}: expected a number > 0, got {value!r}")
    return number


def step_length(
    threat: Threat, step_size: float | Tensor | None, steps: int = 1, factor: float = 1.0
) -> float | Tensor:
    """Return `step_size`, or factor · radius / steps where it is None; InputError where it moves nothing."""
    if step_size is None:
        return threat.default_step_size(steps, factor)
    threat.check_step_size(check_number("step_size", step_size))
    return step_size


def check_objective(
    label_smoothing: float, loss: Loss = "ce", weight: float = 0.0, criterion: object = None
) -> None:
    """Raise InputError unless a recipe can minimize this: of classes, or of the outputs of a criterion."""
    check_number("weight", weight, 0, 1)
    check_share("label_smoothing", label_smoothing, zero=True)
    if not callable(loss):
        check_choice("loss", loss, OBJECTIVES, TRAINED)
    elif label_smoothing:
        raise InputError(
            f"label_smoothing: expected 0 with your own loss, got {label_smoothing}; smooth in it"
        )
    if criterion is None:
        return
    if not isinstance(criterion, Criterion) or criterion.outputs == "classes":
        raise InputError(
            "criterion: expected None for classes, or fa.attacks.Signs(), Share(least) or Beyond(distance), "
            f"got {criterion!r}"
        )
    for name, value, usual in (("label_smoothing", label_smoothing, 0.0), ("loss", loss, "ce")):
        if value != usual:
            raise InputError(f"{name}: expected {usual!r} with {criterion!r}, got {value!r}; leave it out")


def logits_at(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the checked logits [B, K] at x, in the model's own mode; K is more than the labels y."""
    with joined(model, x, y if isinstance(y, Tensor) else x):
        logits = check_logits(model(x), len(x))
    if not isinstance(y, Tensor):
        check_index("y", y, len(x), x.device)
    elif not (y.is_floating_point() and y.shape == logits.shape):  # of soft labels
        check_index("y", y, len(y), y.device)
    # reading labels would wait for a GPU
    if not waits(y.device) and len(y) and int(y.max()) >= logits.shape[1]:
        raise InputError(
            f"model: expected a class for each label, got label {int(y.max())} and "
            f"logits {tuple(logits.shape)}; give the model more classes, in training mode, too"
        )
    return logits


@contextmanager
def joined(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
    """Say of a model that fails inside at x, several batches of as many as y in one, that it takes each."""
    try:
        yield
    except Exception as error:  # models raise anything
        alone = False
        if not (isinstance(error, InputError) or ran_out(error) or len(x) == len(y)):
            with suppress(Exception), torch.no_grad(), InEval(parts_of(model)):
                model(x[: len(y)])
                alone = True
        if not alone:
            raise
        raise InputError(
            f"model: expected one that takes the joined batch of this recipe, {len(x)} images of {len(y)} "
            f"samples, got one that takes {len(y)} ({first_line(error)}); {TWO_INPUTS}"
        ) from error


def far(what: str, loss: float, classes: int) -> str:
    """Return a warning of a loss far above that of equal probabilities; "" for another."""
    if not loss > FAR * math.log(classes):
        return ""
    return (
        f"{what}, {loss:.5g}, is far above the {math.log(classes):.5g} of equal probabilities for {classes} "
        "classes; look whether labels are those of the model, and normalize images inside it, by "
        "fa.models.adapt(net, mean=..., std=...), or divide those in 0..255 by 255"
    )


def watch(model: nn.Module, loss: Tensor, classes: int) -> None:
    """Warn where the first loss of a model, at clean images in a loop of the caller's, is far too large."""
    if torch.compiler.is_compiling() or in_run() or model in _judged:
        return
    _judged.add(model)  # reading a value waits for a GPU
    if text := far("the first loss", float(loss.detach()), classes):
        warn(text)


def mean_loss(logits: Tensor, y: Tensor, smoothing: float, loss: Loss = "ce") -> Tensor:
    """Return the mean over the batch of the loss that training minimizes."""
    if loss == "ce":
        return cross_entropy(logits, y, label_smoothing=smoothing)
    return each_loss(loss, logits, y, smoothing).mean()


def each_loss(loss: Loss, logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return [B], the loss that training minimizes, of a function or "bce"."""
    if not callable(loss):
        return binary_cross_entropy(logits, y, smoothing)
    value = _value(loss, logits, y, None)
    if logits.requires_grad and not value.requires_grad:
        raise InputError(
            "loss: expected a differentiable function of the logits, got a value without a graph; compute it "
            "without detach() or no_grad()"
        )
    return value


@contextmanager
def put_back(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let weights change inside, and restore them bit for bit, which a subtraction would not do."""
    before = [(weight, weight.detach().clone()) for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in before:
                weight.copy_(value)


def ascent(
    model: nn.Module | Prepared, x: Tensor, y: Tensor, threat: Threat, steps: int,
    step_size: float | Tensor | None = None, *, loss: Loss = "ce", start: Tensor | None = None,
    criterion: Criterion | None = None,
) -> Tensor:  # fmt: skip
    """Return the last of `steps` steps of steepest ascent on `loss` at the follower of `model`."""
    if unlabeled := is_missing(y):
        y = labels_or_outputs(criterion, model, x, y)
    outputs = outputs_for(criterion, y)
    if criterion is not None:
        criterion = criterion.for_labels(y)
        y = labels_for(criterion, y)
        if outputs == "any":
            # The distance to the outputs at x, and its square, have no gradient there
            rising = criterion.leading if unlabeled else criterion.rising
            loss = rising if loss == "ce" else loss
            loss = criterion.loss(loss) if isinstance(loss, str) else loss
    length = step_length(threat, step_size, steps, 2.5)
    return _last_iterate(
        follower(model, outputs), x, y, threat, steps=steps, step_size=length, loss=loss, start=start
    )


def labels_for(criterion: Criterion, y: Tensor) -> Tensor:
    """Return labels as the criterion takes them; in a run they were checked with their batch."""
    labels = y if in_run() else criterion.labels("y", y, len(y), y.device)
    if labels is None:
        raise InputError("y: expected labels to train on, got None")
    return labels


def drawn(kind: Callable[..., Tensor], x: Tensor, ids: Tensor | None, seed: int, purpose: str) -> Tensor:
    """Draw numbers like x, of a kind of `fastadv.rng`, keyed by (seed, id): 0 .. B - 1 unless given."""
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    return kind(x[0].numel(), rng.derive(seed, purpose), ids).to(x).view_as(x)
