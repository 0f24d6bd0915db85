"""universal: one perturbation for a whole data set."""

import json
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_flag, check_seed, knowing
from fastadv.answers import answers
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
from fastadv.runs.card import card
from fastadv.runs.files import load_tensors, save_tensors
from fastadv.runs.identity import ANSWERS, BY_NAME, FORMAT, check_same, describe
from fastadv.runs.work import Keeper
from fastadv.threat import Threat, Through
from fastadv.train._feed import Feed, first_rows
from fastadv.train.perturbation import Towards, UniversalResult, as_map

CHECKPOINT, PARAMETERS = "checkpoint.safetensors", "parameters.safetensors"
SUMS, TINY = 6, 1e-300  # sums over samples besides that of gradients; what is divided by at least
FIRST_STEP = {"apgd": 2.0, "pgd": 0.8}  # over the radius
RISING = 0.75  # the share of epochs that must raise the score, as of steps in `fastadv.attacks.apgd`
SOFT = 0.1  # the margin at which a sample weighs a quarter, over the mean size of all margins at first
ASCENT = 25  # epochs from one start; where there are more, further ascents begin at random points


@dataclass
class _State:
    """Where an ascent stands after an epoch."""

    step_size: float
    halved: bool = True  # at the last checkpoint
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    soft: float = 0.0  # by which margins are soft; 0 before the first step
    spoiled: int = 0  # gradients that were not finite
    points: dict[str, Tensor] = field(default_factory=dict)  # now, before, best; top of an ascent

    def save(self, path: Path, config: dict[str, Any]) -> None:
        plain = {name: value for name, value in vars(self).items() if name != "points"}
        apart = {name: point.clone() for name, point in self.points.items()}  # several may be one tensor
        save_tensors(path, apart, {"state": json.dumps({"config": config, **plain})})

    @classmethod
    def load(cls, path: Path, config: dict[str, Any]) -> "_State":
        points, metadata = load_tensors(path)
        plain = json.loads(metadata["state"])
        check_same(path, plain.pop("config"), config)
        return cls(points=points, **plain)


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
    state: _State

    def epoch(self, number: int, tick: Tick | None) -> None:
        """Take a step for each batch of an epoch, counted from 0."""
        state, feed, steps = self.state, self.feed, self.feed.steps
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
            if not state.soft:
                state.soft = SOFT * float(parts[3] / parts[1].clamp_min(1)) or TINY
            if step == steps - 1:
                _, finite, loss, _, score, scored = sums.tolist()
                state.spoiled += feed.epoch_size - int(finite)
                state.losses.append(loss / finite if finite else -inf)
                gradient = self._close(score / scored if scored else -inf, gradient)
            self._step(number, step, gradient)
            done = number * steps + step + 1
            tell(tick, f"epoch {number + 1} of {self.epochs}", done, self.epochs * steps)

    def _look(self, number: int, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Return sums over samples, in float64: of `SUMS` numbers, and of their weighted gradients."""
        # a sample whose gradient is not finite counts for nothing
        classifier, now = self.classifier, self.state.points["now"]
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
        soft = self.state.soft
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
        ball, state, seed = self.map.ball, self.state, rng.derive(self.feed.seed, "universal")
        ids = torch.tensor([number], device=self.origin.device)
        state.points["now"] = ball.random_start(self.origin, seed=seed, ids=ids)
        state.step_size, state.halved = float(ball.default_step_size(1, FIRST_STEP[self.attack])), True

    def _close(self, score: float, gradient: Tensor) -> Tensor:
        """End an epoch of this mean score, before its last step; return the gradient for that."""
        state, points = self.state, self.state.points
        first, end = self._ascent(len(state.scores))
        scores = state.scores[first:]
        if not scores or score > max(scores):
            points["top"], points["gradient"] = points["now"], gradient
        if not state.scores or score > max(state.scores):
            points["best"] = points["now"]
        state.scores.append(score)
        scores, moves = [*scores, score], len(scores)
        total = end - first - 1
        interval = {after: since for _, after, since in spans(total) if after < total}.get(moves)
        if self.attack == "pgd" or interval is None:
            return gradient
        rises = sum(after > before for before, after in pairwise(scores[moves - interval :]))
        stuck = max(scores) <= max(scores[: moves - interval + 1])
        state.halved = rises <= RISING * interval or (stuck and not state.halved)
        if not state.halved:
            return gradient
        state.step_size /= 2
        points["now"] = points["top"]
        return points["gradient"]

    def _step(self, number: int, step: int, gradient: Tensor) -> None:
        points, now, ball = self.state.points, self.state.points["now"], self.map.ball
        (first, end), steps = self._ascent(number), self.feed.steps
        move = (number - first) * steps + step
        left = 1.0 if self.attack == "apgd" else 1 - move / ((end - first) * steps)
        ahead = ball.step(now, gradient, self.origin, self.state.step_size * left)
        if self.attack == "apgd" and move:
            ahead = ball.project((2 * now - points["before"]).lerp(ahead, MOMENTUM), self.origin)
        points["before"], points["now"] = now, ahead


@knowing
def universal(
    model: Model | Prepared, data: Data | Tensor, threat: Threat, *, attack: str = "apgd",
    epochs: int = 10, batch_size: int = 128, targets: int | None = None,
    criterion: Criterion | None = None, seed: int = 0, run_dir: str | PathLike[str] | None = None,
    resume: bool = False, identity: str | None = None, progress: Progress = False,
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
        run_dir: a folder for a checkpoint after each epoch, and at the end for parameters.safetensors, with a
            card. None writes nothing.
        resume: continue a stopped run of `run_dir`, to the same result.
        identity: a text that represents your own model and criterion. Without it a model is known by its
            weights and its logits of 16 samples, a criterion by the source of its functions.
        progress: True shows a bar on stderr; a function is called with (steps done, steps) after every step.

    Returns:
        A `fastadv.train.UniversalResult`: the perturbation, and an attack with it.

    Raises:
        InputError: an argument cannot work, or the folder holds another run.
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
        if check_flag("resume", resume) and run_dir is None:
            raise InputError("run_dir: expected the folder of the run to resume, got None; pass run_dir=")
        criterion = check_criterion(criterion)
        labels = labels_of(criterion)
        dataset = as_dataset(data, "data", labels)
        size = sample_count(dataset, name="data")
        meant = criterion if targets is None else Towards(criterion, targets)
        judged = for_data(meant, dataset, threat.box)
        first = partial(first_rows, dataset, 1, threat.box, labels)
        classifier = prepare(model, work=epochs * size, outputs=judged.outputs)
        device = classifier.device or torch.device("cpu")
        feed = Feed(dataset, batch_size, None, seed, device, box=threat.box, labels=labels)
        known = partial(describe, identity=BY_NAME if run_dir is None else identity)
        config = {"threat": known(threat), "criterion": known(meant)}
        config["model"] = describe(classifier, identity=BY_NAME)  # whose answers tell the rest
        config |= {"attack": attack, "epochs": epochs, "batch_size": batch_size, "seed": seed}
        config |= {"identity": identity, "targets": None}  # Folders of the last version name targets
        config |= {**FORMAT, "data": describe_data(dataset)}
        if run_dir is not None and identity is None:
            x, _, _ = first_rows(dataset, min(batch_size, size), threat.box, labels)
            config[ANSWERS] = answers(classifier, x)
    if processes.world() > 1:
        asked = {"run_dir": run_dir and str(run_dir), "resume": resume, "torch": torch.__version__}
        processes.check_alike(config | asked)
    through = as_map(threat)
    x, y, ids = (tensor.to(device) for tensor in first())
    checks = epochs if y.shape[1:] == (0,) else 1  # without labels, outputs at x take their place
    origin = through.parameters(x, ids)
    if Threat.covers(through.ball, origin):  # also where the ball says that it means to
        origin = torch.full_like(origin, sum(through.ball.box) / 2)
    showing = shown(progress, "perturbing")
    with Keeper(run_dir) as keeper, closing(feed), showing as tick, no_gradient(), classifier.in_eval():
        state = keeper.begun(CHECKPOINT, resume, "a checkpoint", partial(_State.load, config=config))
        if state is None:
            points = dict.fromkeys(("now", "before", "best", "top", "gradient"), origin)
            state = _State(float(threat.default_step_size(1, FIRST_STEP[attack])), points=points)
        state.points = {name: point.to(device) for name, point in state.points.items()}
        judged = judged.meant_by(classifier.model)
        ascent = _Ascent(classifier, feed, through, judged, attack, epochs, origin, checks, state)
        for number in range(len(state.losses), epochs):
            ascent.epoch(number, tick)
            keeper.result(CHECKPOINT, partial(state.save, config=config))
        result = UniversalResult(state.points["best"][0], threat, criterion, targets=targets)
        result = _judged(result, ascent, dataset)
        keeper.result(PARAMETERS, partial(_save, result, config))
    return result


def _judged(result: UniversalResult, ascent: _Ascent, dataset: Dataset[Any]) -> UniversalResult:
    """Return the perturbation with what it does to the data."""
    state, feed = ascent.state, ascent.feed
    with processes.agreement():
        job = prepared(ascent.classifier, dataset, {"universal": result}, feed.batch_size, None)
    measured, size, lost = accuracies(job), feed.epoch_size, state.spoiled
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
        losses=tuple(state.losses),
        forwards=looks + size * (1 + ascent.checks) + forwards,
        backwards=looks + backwards,
        flags=(*flags_of(parts), *([flag] if lost else [])),
    )


def _save(result: UniversalResult, config: dict[str, Any], path: Path) -> None:
    measured = {name: value for name, value in vars(result).items() if isinstance(value, int | float | tuple)}
    about = {"card": json.dumps(card("universal", config, **measured))}
    held = {name: value for name, value in vars(result).items() if isinstance(value, Tensor)}
    save_tensors(path, held, about)
