"""What a few samples say of a model: each question once, in at most twelve passes that all samples share.

Sources: Pintor et al. 2022, Indicators of Attack Failure; Croce & Hein 2020.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import torch
from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.task import Task
from fastadv.engine import prepare
from fastadv.engine.copy import copied
from fastadv.engine.guard import bound, near
from fastadv.engine.module import as_module
from fastadv.errors import NoGradientError

SAMPLES = 8  # that are looked at; of fewer nothing is said
APART = 1e-4  # of centered logits, by which two passes of a randomized model differ
SCRAMBLED = 0.1  # of their length, by which most samples' gradients differ in another pass if scrambled
AGAIN = 4  # more passes, where a row alone differs
WAYS, PARTS = (0.15, 0.5), 4  # of the way to a random image; the parts of a way, between which points lie
JUMPS = 0.2  # the part of the changes that jumps leave unexplained: of honest nets up to 0.08, of masks 0.8
BETWEEN = 0.1  # of the way to a random image, where a stand-in is looked for
SHORT, FLOAT32 = 1e-6, 1e-4  # steps from there, of the width of the box, in float64 and in float32
OFF = 0.2  # part of the change, by which the gradient of a stand-in is off


@dataclass(frozen=True, eq=False)
class Answer:
    """What a pass says at x: the logits [B, K], the gradient of the margin, and whether there is one."""

    logits: Tensor
    gradient: Tensor
    leads: bool = True

    @classmethod
    def of(cls, task: Task) -> "Answer":
        about = task.y, task.margin, task.targets, True, task.rows
        try:
            return cls(*task.classifier.input_gradient(task.x, *about)[1:])
        except NoGradientError:
            return cls(task.classifier.verdict(task.x, task.rows), torch.zeros_like(task.x), leads=False)

    def without_gradient(self, task: Task) -> Tensor:
        """Return bool [B]: it, or that of plain "ce", is zero in all values that may move, or not finite."""
        gradient = self.gradient if task.mask is None else self.gradient.where(task.mask, 0.0)
        gradient = gradient.flatten(1)
        none = (gradient == 0).all(1) | ~gradient.isfinite().all(1)
        if task.criterion is WRONG:  # cross-entropy underflows, where logits are far apart
            none |= (losses.loss_and_grad(self.logits, task.y, "ce", task.targets)[1] == 0).all(1)
        return none.cpu()


def randomized(task: Task, first: Answer, second: Answer) -> bool:
    """Return whether two answers, or most of their gradients, differ by more than rounding."""
    logits = torch.stack([first.logits, second.logits]).double()
    finite = logits.isfinite().all(2)
    one, other = (answer.gradient.flatten(1) for answer in (first, second))
    scrambled = (one - other).norm(dim=1) > SCRAMBLED * one.norm(dim=1)
    if bool(scrambled.double().mean() > 0.5) or not torch.equal(finite[0], finite[1]):
        return True
    logits = logits[:, finite[0]]
    if task.outputs == "classes":  # their differences decide
        logits = logits - logits.mean(2, keepdim=True)
    apart = APART + 8 * torch.finfo(task.classifier.dtype or torch.float32).eps
    return bool((logits.diff(dim=0)[0].norm(dim=1) > apart * logits.norm(dim=2).amax(0)).any())


def differs_alone(task: Task, logits: Tensor) -> str:
    """Return the sign of a model whose logits of the last row are others than in the batch; "" where not."""
    last = torch.arange(len(task.x) - 1, len(task.x), device=task.x.device)
    rounding = bound(task.classifier.search_dtype) * float(logits[:, near(logits)].abs().max())

    def apart(one: Tensor, other: Tensor) -> bool:
        away = one.double() - other.double()
        away = away - away.mean(1, keepdim=True) if task.outputs == "classes" else away
        return bool((away.abs().nan_to_num() > rounding).any())

    try:
        alone = task.classifier(task.x[last], task.rows[last])
        if not apart(alone, logits[last]):
            return ""
        # a model that draws once a batch, such as a shift, may have repeated itself by chance
        again = (task.classifier(task.x[last], task.rows[last]) for _ in range(AGAIN))
        return "randomized" if any(apart(alone, one) for one in again) else "mixed_rows"
    except Exception:  # models of one batch size raise anything
        return ""


@dataclass(frozen=True, eq=False)
class Ways:
    """How gradients explain what the logits do on ways from x, and where those along a gradient lead."""

    missing: float  # the part of the changes that gradients always miss
    jumps: float  # the part that they miss now and then
    left: Tensor  # bool [B]: the class is the same all along the gradient

    def unexplained(self, jumps: bool) -> float:
        """Return the part of the changes that the gradient gets wrong, where it is known to have `jumps`."""
        return max(self.missing, self.jumps if self.jumps > JUMPS and not jumps else 0.0)


def _box(task: Task) -> tuple[float, float]:
    """Return the bounds of images: the box, or without one the range of the samples."""
    low, high = task.threat.box
    return (low, high) if high - low < inf else (float(task.x.min()), float(task.x.max()))


def to_random_images(task: Task, seed: int, draw: int = 0) -> Tensor:
    """Return [B, ...], the ways from the samples to random images."""
    low, high = _box(task)
    chance = rng.uniform(task.x[0].numel(), seed, task.ids, draw).view(task.x.shape).to(task.x)
    return low + (high - low) * chance - task.x


def walked(task: Task, gradient: Tensor, seed: int, batch_size: int) -> Ways:
    """Walk towards random images and, as far as the box goes, along the gradient."""
    x, places = task.x, range(1, PARTS + 1)
    ways = [length * to_random_images(task, seed, draw) for draw, length in enumerate(WAYS)]
    steps = [part / PARTS * way for way in (*ways, _along(task, x, gradient)) for part in places]
    points, many = torch.cat([x, *(x + step for step in steps)]), repeated(task, len(steps) + 1)

    def weights(logits: Tensor, rows: Tensor) -> Tensor:
        chance = rng.uniform(logits.shape[1], seed, many.ids[rows], len(WAYS)).to(logits)
        middle = chance.mean(1, keepdim=True) if task.outputs == "classes" else 0.5
        return (chance - middle)[:, None]  # of classes the differences of logits count

    answers = []
    try:
        for rows in torch.split(torch.arange(len(points), device=x.device), batch_size):
            ask = partial(weights, rows=rows)
            logits, grad = many.classifier.jacobian(points[rows], ask, rows=many.rows[rows])
            answers.append((logits, (ask(logits)[:, 0] * logits).double().sum(1), grad[:, 0].flatten(1)))
    except NoGradientError:
        return Ways(1.0, 1.0, torch.ones(len(x), dtype=torch.bool, device="cpu"))
    logits, value, grad = (torch.cat(each) for each in zip(*answers, strict=True))
    value, grad, shares = value.view(-1, len(x)), grad.view(len(steps) + 1, len(x), -1).double(), []
    for number, way in enumerate(ways):
        at = [0, *(number * PARTS + part for part in places)]
        shares.append(_unexplained(value[at], (grad[at] * way.flatten(1)).sum(2), torch.finfo(x.dtype).eps))
    missing, jumps = (min(max(min(each), 0.0), 1.0) for each in zip(*shares, strict=True))
    same = logits.argmax(1).view(-1, len(x))[-PARTS:] == logits.argmax(1)[: len(x)]
    return Ways(missing, jumps, same.all(0).cpu())


def repeated(task: Task, times: int) -> Task:
    """Return the task of the same samples several times."""
    return task.take(torch.arange(len(task.x), device=task.x.device).repeat(times))


def _along(task: Task, x: Tensor, gradient: Tensor) -> Tensor:
    low, high = _box(task)
    return (x + (high - low) * gradient.sign()).clamp(low, high) - x


def _unexplained(value: Tensor, grad: Tensor, rounding: float) -> tuple[float, float]:
    """Return what part of the changes of values [PARTS + 1, B] gradients miss always, and now and then."""
    # Where a part of the gradient is missing the rest has one sign in both halves of a way: their product
    # over the mean square of the changes is the share. Kinks leave little, stand-ins, randomness and rounding
    # a rest that changes its sign. The least counts: of all samples together and their median.
    change = value.diff(dim=0)
    rest = change - (grad[1:] + grad[:-1]) / (2 * PARTS)
    change, rest = (torch.stack([half.sum(0) for half in each.chunk(2)]) for each in (change, rest))
    size = change.square().mean(0)
    clear = rest.isfinite().all(0) & (size > (64 * rounding * value.abs().amax(0)).square())
    if not bool(clear.any()):
        return 0.0, 0.0
    size = size[clear]
    parts = rest.prod(0)[clear], rest.square().mean(0)[clear]
    always, at_times = (min(float(p.sum() / size.sum()), float((p / size).median())) for p in parts)
    return always, at_times


def stands_in(task: Task, gradient: Tensor, seed: int) -> bool:
    """Return whether the gradient is that of something else, as where a rounding has that of the identity."""
    # Between the samples and random images a kink is met by chance alone, and a step function stays on a way
    # that is short enough: in float64 where a copy of the model computes in it.
    x, classifier = task.x + BETWEEN * to_random_images(task, seed), task.classifier
    module = as_module(classifier.source)
    with suppress(Exception):  # code that names a dtype, devices without float64
        if module is not None:
            exact = prepare(copied(module).double(), outputs=classifier.outputs, freeze=False)
            off = _off(replace(task, classifier=exact), x.double(), gradient, SHORT)
            classifier.forwards += exact.forwards
            classifier.backwards += exact.backwards
            return off
    if torch.finfo(classifier.dtype or task.x.dtype).eps > torch.finfo(torch.float32).eps:
        return False
    try:
        return _off(replace(task, classifier=classifier.as_given), x, gradient, FLOAT32)
    except NoGradientError:
        return False


def _off(task: Task, x: Tensor, gradient: Tensor, length: float) -> bool:
    """Return whether, by a short step along a gradient, the margin changes otherwise than it says."""
    step = length * _along(task, x, gradient).to(x)
    many = repeated(task, 2)
    about = many.y, many.margin, many.targets, False, many.rows
    value, _, grad = many.classifier.input_gradient(torch.cat([x, x + step]), *about)
    expected = (sum(grad.chunk(2)) / 2 * step).flatten(1).sum(1)
    change = value.view(2, -1).diff(dim=0)[0]
    return bool((change / expected - 1).abs().nanmedian() > OFF)
