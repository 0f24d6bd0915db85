"""universal: one perturbation for a whole data set."""

from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_seed, knowing
from fastadv.attacks.core.checks import check_finite_radius, check_norm
from fastadv.attacks.core.criterion import WRONG, Criterion, check_criterion, fitting
from fastadv.attacks.methods.auto_pgd import MOMENTUM, spans
from fastadv.data.content import describe_data
from fastadv.data.given import Data, as_dataset
from fastadv.data.sampling import sample_count
from fastadv.engine import Model, Prepared, prepare
from fastadv.engine.precision import no_autocast, no_gradient, with_gradient
from fastadv.errors import InputError, NoGradientError
from fastadv.measure.accuracies import accuracies
from fastadv.measure.job import prepared
from fastadv.measure.outcome import NOT_RUN, flags_of
from fastadv.measure.reading import for_data, labels_of
from fastadv.progress import Progress, Tick, check_progress, shown, tell
from fastadv.runs import processes
from fastadv.runs.identity import BY_NAME, describe
from fastadv.threat import Threat, Through
from fastadv.train._feed import Feed
from fastadv.train.perturbation import Towards, UniversalResult, as_map

SUMS, TINY = 6, 1e-300  # sums over samples besides that of gradients; what is divided by at least
FIRST_STEP = {"apgd": 2.0, "pgd": 0.8}  # over the radius
RISING = 0.75  # the share of epochs that must raise the score, as of steps in `fastadv.attacks.apgd`
SOFT = 0.1  # the margin at which a sample weighs a quarter, over the mean size of all margins at first
ASCENT = 25  # epochs from one start; where there are more, further ascents begin at random points


@dataclass
class _Ascent:
    """Steps along the gradients of batches."""

    classifier: Prepared
    feed: Feed
    map: Through
    criterion: Criterion
    attack: str
    epochs: int
    origin: Tensor  # [1, ...], the center of the ball
    checks: int  # epochs in which clean samples pass

    def __post_init__(self) -> None:
        # best is that of all ascents, top that of this one, with its gradient
        self.points = dict.fromkeys(("now", "before", "best", "top", "gradient"), self.origin)
        self.step_size = self._first_step()
        self.halved = True  # at the last checkpoint of an ascent
        self.losses, self.scores = list[float](), list[float]()  # of the epochs
        self.soft = 0.0  # by which margins are soft; 0 before the first step
        self.spoiled = 0  # gradients that were not finite

    def _first_step(self) -> float:
        return float(self.map.ball.default_step_size(1, FIRST_STEP[self.attack]))

    def epoch(self, number: int, tick: Tick | None) -> None:
        """Take a step for each batch of an epoch, counted from 0."""
        feed, steps = self.feed, self.feed.steps
        sums = torch.zeros(SUMS, dtype=torch.float64, device=feed.device)
        if number and number == self._ascent(number)[0]:
            self._begin(number)
        for step, (x, y, ids) in enumerate(feed.batches(number)):
            count = feed.share(step).count
            parts = self.origin.new_zeros(self.origin.numel() + SUMS, dtype=torch.float64)
            with nullcontext() if number else processes.agreement():
                if count:
                    parts += self._look(number, x[:count], y[:count].to(x.device), ids[:count])
            parts = processes.add_up(parts)
            gradient = (parts[SUMS:] / parts[0].clamp_min(TINY)).view_as(self.origin).to(self.origin)
            sums = sums + parts[:SUMS]
            if not self.soft:
                self.soft = SOFT * float(parts[3] / parts[1].clamp_min(1)) or TINY
            if step == steps - 1:
                _, finite, loss, _, score, scored = sums.tolist()
                self.spoiled += feed.epoch_size - int(finite)
                self.losses.append(loss / finite if finite else -inf)
                gradient = self._close(score / scored if scored else -inf, gradient)
            self._step(number, step, gradient)
            done = number * steps + step + 1
            tell(tick, f"epoch {number + 1} of {self.epochs}", done, self.epochs * steps)

    def _look(self, number: int, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Return sums over samples, in float64: of `SUMS` numbers, and of their weighted gradients."""
        # a sample whose gradient is not finite counts for nothing
        classifier, now = self.classifier, self.points["now"]
        known = self.criterion.labels("data", None if y.shape[1:] == (0,) else y, len(x), x.device)
        meant = WRONG if self.criterion.outputs == "logit" else self.criterion
        if number < self.checks:
            clean = classifier.verdict(x)
            known = fitting(meant, clean, classifier.output_shape, known, None)
            self._check_center(x, ids)
        with with_gradient(), no_autocast(x.device.type):
            leaf = now.expand(len(x), *now.shape[1:]).clone().requires_grad_()
            images = self.map.image(leaf, x, ids, number + 1)
        if not images.requires_grad:
            raise NoGradientError(f"map: expected images that depend on t, got others from {self.map.name}")
        loss = "margin" if meant is WRONG else meant.margin
        soft = self.soft
        try:
            value, _, by_images = classifier.input_gradient(images.detach(), known, loss)
        except NoGradientError:
            return torch.zeros(leaf[0].numel() + SUMS, dtype=torch.float64, device=x.device)
        (gradient,) = torch.autograd.grad(images, leaf, by_images)
        # the mean of m / (soft + |m|) is to rise, nearly the share of samples that are wrong: those far from
        # any boundary hardly count. The first step, which looks for what is far, weighs all alike
        margin, ones = value.double(), torch.ones_like(value, dtype=torch.float64)
        weight = (soft / (soft + margin.abs())).square() if soft else ones
        score = margin / (soft + margin.abs()) if soft else 0 * ones
        numbers = torch.stack([weight, ones, margin, margin.abs(), score, ones * bool(soft)], 1)
        rows = torch.cat([numbers, weight[:, None] * gradient.flatten(1)], 1)
        return rows.where(rows.isfinite().all(1, keepdim=True), 0.0).sum(0, dtype=torch.float64)

    def _check_center(self, x: Tensor, ids: Tensor) -> None:
        """Raise InputError unless parameters in the ball around the center are in that of each sample."""
        still = self.map.parameters(x, ids)
        if not (bool((still == self.origin).all()) or Threat.covers(self.map.ball, still)):
            raise InputError(
                f"threat: expected parameters that leave all samples as they are, got {self.map.name}, whose "
                "still(x) differ; give the ball a radius that holds all of its box"
            )

    def _ascent(self, number: int) -> tuple[int, int]:
        """Return the first epoch of the ascent to which an epoch belongs, and that of the next one."""
        ascents = max(1, self.epochs // ASCENT)
        place = ((number + 1) * ascents - 1) // self.epochs
        return self.epochs * place // ascents, self.epochs * (place + 1) // ascents

    def _begin(self, number: int) -> None:
        """Begin an ascent at a random point, as others end in other local optima."""
        seed = rng.derive(self.feed.seed, "universal")
        ids = torch.tensor([number], device=self.origin.device)
        self.points["now"] = self.map.ball.random_start(self.origin, seed=seed, ids=ids)
        self.step_size, self.halved = self._first_step(), True

    def _close(self, score: float, gradient: Tensor) -> Tensor:
        """End an epoch of this mean score, before its last step; return the gradient for that."""
        points = self.points
        first, end = self._ascent(len(self.scores))
        scores = self.scores[first:]
        if not scores or score > max(scores):
            points["top"], points["gradient"] = points["now"], gradient
        if not self.scores or score > max(self.scores):
            points["best"] = points["now"]
        self.scores.append(score)
        scores, moves = [*scores, score], len(scores)
        total = end - first - 1
        interval = {after: since for _, after, since in spans(total) if after < total}.get(moves)
        if self.attack == "pgd" or interval is None:
            return gradient
        rises = sum(after > before for before, after in pairwise(scores[moves - interval :]))
        stuck = max(scores) <= max(scores[: moves - interval + 1])
        self.halved = rises <= RISING * interval or (stuck and not self.halved)
        if not self.halved:
            return gradient
        self.step_size /= 2
        points["now"] = points["top"]
        return points["gradient"]

    def _step(self, number: int, step: int, gradient: Tensor) -> None:
        points, now, ball = self.points, self.points["now"], self.map.ball
        (first, end), steps = self._ascent(number), self.feed.steps
        move = (number - first) * steps + step
        left = 1.0 if self.attack == "apgd" else 1 - move / ((end - first) * steps)
        ahead = ball.step(now, gradient, self.origin, self.step_size * left)
        if self.attack == "apgd" and move:
            ahead = ball.project((2 * now - points["before"]).lerp(ahead, MOMENTUM), self.origin)
        points["before"], points["now"] = now, ahead


@knowing
def universal(
    model: Model | Prepared, data: Data | Tensor, threat: Threat, *, attack: str = "apgd",
    epochs: int = 10, batch_size: int = 128, targets: int | None = None,
    criterion: Criterion | None = None, seed: int = 0, progress: Progress = False,
) -> UniversalResult:  # fmt: skip
    """Find one perturbation that turns as many samples of a data set wrong as it can.

    It lies in the ball around zero, and is added to every image, within the box; of a map of parameters, such
    as `fa.Patch`, it is one t for all. Each step ascends along the sum of the gradients of a batch, which is
    a function of (seed, epoch), as are the places of a patch. The loss is the margin m of the criterion; a
    sample weighs as the derivative of m / (s + |m|), where s is a tenth of the mean |m| at first: those far
    from any boundary hardly count. "apgd" has the momentum and the halvings of `apgd`, decided by the mean of
    m / (s + |m|) in each epoch; the step of "pgd" falls to zero in a straight line. From 50 epochs on there
    are several ascents of 25 or more, all but the first from random points. What is returned is the
    perturbation of the epoch with the highest such mean.

    Its accuracies on `data`, on which it was found, are lower than on other data. What to publish is its
    accuracy on held-out data: `fa.evaluate(model, test_set, {"universal": out})`.

    The processes of a process group share each batch, and all return the same; up to rounding it is that of
    one process.

    Args:
        model: a module or Frozen; x [B, ...] to logits [B, K], or what else the criterion takes.
        data: as `fa.evaluate` takes it.
        threat: Linf or L2, of one finite radius; or a map of parameters in such a ball.
        attack: "apgd" or "pgd".
        epochs: passes through the data, 1 or more.
        batch_size: samples of a step.
        targets: a class, wanted of all samples that are not of it; None wants anything but y.
        criterion: what a success must fulfill; None asks for a wrong class.
        seed: of the order of samples.
        progress: True shows a bar on stderr; a function is called with (steps done, steps) after every step.

    Returns:
        A `fastadv.train.UniversalResult`: the perturbation, and an attack with it.

    Raises:
        InputError: an argument cannot work.
        NoGradientError: images of the map do not depend on its parameters differentiably.

    Example:
        >>> import fastadv as fa
        >>> digits, test_set = fa.data.load("digits"), fa.data.load("digits", "test")
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> out = fa.attacks.universal(model, digits, fa.Linf(0.3), epochs=3)
        >>> table = fa.evaluate(model, test_set, {"universal": out})
        >>> table["universal"].robust_accuracy < table.clean_accuracy
        True

    Source:
        Moosavi-Dezfooli et al. 2017, "Universal Adversarial Perturbations" (arXiv 1610.08401); Shafahi et al.
        2020, "Universal Adversarial Training" (arXiv 1811.11304), for steps along the gradients of batches.
    """
    with processes.agreement():
        ball = threat.ball if isinstance(threat, Through) else threat
        check_norm("universal", ball, ("linf", "l2"))
        ball.check_one_radius()
        check_finite_radius(ball)
        check_choice("attack", attack, FIRST_STEP)
        check_count("epochs", epochs, 1)
        check_count("batch_size", batch_size, 1)
        check_seed(seed)
        check_progress(progress)
        criterion = check_criterion(criterion)
        labels = labels_of(criterion)
        dataset = as_dataset(data, "data", labels)
        size = sample_count(dataset, name="data")
        meant = criterion if targets is None else Towards(criterion, targets)
        judged = for_data(meant, dataset, threat.box)
        classifier = prepare(model, work=epochs * size, outputs=judged.outputs)
        device = classifier.device or torch.device("cpu")
        feed = Feed(dataset, batch_size, None, seed, device, box=threat.box, labels=labels)
    if processes.world() > 1:
        alike = {"attack": attack, "epochs": epochs, "batch_size": batch_size, "seed": seed}
        alike |= {"targets": targets, "data": describe_data(dataset), "torch": torch.__version__}
        alike |= describe({"threat": threat, "criterion": criterion, "model": classifier}, identity=BY_NAME)
        processes.check_alike(alike)
    through = as_map(threat)
    x, y, ids = feed.first(1)
    checks = epochs if y.shape[1:] == (0,) else 1  # without labels, outputs at x take their place
    origin = through.parameters(x, ids)
    if Threat.covers(through.ball, origin):  # also where the ball says that it means to
        origin = torch.full_like(origin, sum(through.ball.box) / 2)
    showing = shown(progress, "perturbing")
    with closing(feed), showing as tick, no_gradient(), classifier.in_eval():
        judged = judged.meant_by(classifier.model)
        ascent = _Ascent(classifier, feed, through, judged, attack, epochs, origin, checks)
        for number in range(epochs):
            ascent.epoch(number, tick)
        result = UniversalResult(ascent.points["best"][0], threat, criterion, targets=targets)
        return _judged(result, ascent, dataset)


def _judged(result: UniversalResult, ascent: _Ascent, dataset: Dataset[Any]) -> UniversalResult:
    """Return the perturbation with what it does to the data."""
    feed = ascent.feed
    with processes.agreement():
        job = prepared(ascent.classifier, dataset, {"universal": result}, feed.batch_size, None)
    measured, size, lost = accuracies(job), feed.epoch_size, ascent.spoiled
    parts = measured.parts["universal"]
    forwards, backwards = torch.stack([part["cost"] for part in parts]).sum(0).tolist()
    looks = size * ascent.epochs * ascent.classifier.eot
    flag = f"{lost} of {size * ascent.epochs} gradients were not finite or missing, and counted for nothing"
    if lost == size * ascent.epochs:
        flag = f"{NOT_RUN} (no sample has a gradient; use an attack on each sample, such as square)"
    return replace(
        result,
        clean_accuracy=measured.clean,
        robust_accuracy=measured.under("universal"),
        losses=tuple(ascent.losses),
        forwards=looks + size * (1 + ascent.checks) + forwards,
        backwards=looks + backwards,
        flags=(*flags_of(parts), *([flag] if lost else [])),
    )
