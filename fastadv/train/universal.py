"""universal: one perturbation for a whole data set."""

import json
import math
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_choice, check_count, check_flag, check_seed, knowing
from fastadv.attacks import AttackResult, core
from fastadv.attacks.core.criterion import WRONG, Criterion, check_criterion, fitting
from fastadv.attacks.core.problem import check_finite_radius, check_norm
from fastadv.attacks.methods.auto_pgd import FIRST, MOMENTUM, SHORTER, SHORTEST
from fastadv.data.given import Data, as_dataset
from fastadv.data.sampling import sample_count
from fastadv.engine import Prepared, prepare
from fastadv.engine.arguments import check_input
from fastadv.engine.precision import no_gradient
from fastadv.errors import InputError
from fastadv.evaluation import evaluate
from fastadv.evaluation.measure import for_data, labels_of
from fastadv.progress import Progress, Tick, check_progress, shown, tell
from fastadv.runs import processes
from fastadv.runs.card import card
from fastadv.runs.description import check_described, describe, describe_shared
from fastadv.runs.files import load_tensors, save_tensors
from fastadv.runs.folder import Keeper
from fastadv.runs.identity import check_same
from fastadv.threat import Threat
from fastadv.train._feed import Feed, first_rows

CHECKPOINT, PARAMETERS = "checkpoint.safetensors", "parameters.safetensors"
FIRST_STEP = {"apgd": 2.0, "pgd": 0.8}  # over the radius
RISING = 0.75  # the share of moves that must raise the loss, as in `fastadv.attacks.apgd`


@dataclass(frozen=True, eq=False)
class UniversalResult:
    """One perturbation for all images, which `universal` returns.

    It is an attack, too: `fa.evaluate(model, test_set, {"universal": result})` judges it on other data.

    Attributes:
        parameters: the perturbation, like one image.
        threat: in which x and what `apply` makes of it lie.
        criterion: what a success is; None for a wrong class.
        targets: the class that is wanted of all samples; None for none, or for one of each.
        clean_accuracy: the share of the data that is right without it.
        robust_accuracy: the share of the data that is right with it, too.
        losses: the mean loss of each epoch, of the points at which it was.
        forwards: samples passed forward.
        backwards: samples for which an input gradient was computed.
        flags: warnings that cast doubt on the result; empty where nothing does.
    """

    parameters: Tensor
    threat: Threat
    criterion: Criterion | None = None
    targets: int | None = None
    clean_accuracy: float = math.nan
    robust_accuracy: float = math.nan
    losses: tuple[float, ...] = ()
    forwards: int = 0
    backwards: int = 0
    flags: tuple[str, ...] = ()

    @property
    def success_rate(self) -> float:
        """The share of the samples that are right without it which it turns wrong; NaN where none is."""
        right = self.clean_accuracy
        return (right - self.robust_accuracy) / right if right else math.nan

    def apply(self, x: Tensor) -> Tensor:
        """Return x [B, ...] with the perturbation, in ball and box."""
        x = check_input(x, None)
        if x.shape[1:] != self.parameters.shape:
            raise InputError(
                f"x: expected images {tuple(self.parameters.shape)} as those of the perturbation, "
                f"got {tuple(x.shape[1:])}"
            )
        return _image(self.threat, self.parameters[None], x)

    @property
    def func(self) -> Any:
        """The attack with what is bound to it, as `fastadv.evaluate` looks for it."""
        return partial(
            perturbed, parameters=self.parameters, threat=self.threat, criterion=self.criterion,
            targets=self.targets,
        )  # fmt: skip

    def __call__(self, model: core.Classifier, x: Tensor, y: Tensor, **options: Any) -> AttackResult:
        return self.func(model, x, y, **options)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        about = f"clean accuracy {self.clean_accuracy:.4g}, robust accuracy {self.robust_accuracy:.4g}"
        flags = "".join(f"; {flag}" for flag in self.flags)
        return f"UniversalResult({self.threat!r}, {about} on its data{flags})"


def perturbed(
    model: core.Classifier, x: Tensor, y: Tensor, *, parameters: Tensor, threat: Threat,
    criterion: Criterion | None = None, targets: int | Tensor | None = None, ids: Tensor | None = None,
) -> AttackResult:  # fmt: skip
    """Judge a perturbation as an attack; of targets like y, `ids` say which are those of these samples."""

    def rule(search: core.Search) -> None:
        search.decide(_image(threat, parameters[None], search.x))

    meant, wanted = _meaning(check_criterion(criterion), targets, y, ids)
    out = core.run(model, x, y, threat, rule, criterion=meant, targets=wanted, ids=ids)
    return replace(out, attack="universal")


@dataclass(frozen=True)
class Towards(Criterion):
    """A success has one class, which is wanted of all samples that are not of it."""

    of: Criterion
    target: int

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        others = y != self.target
        y = y[others]
        self.of.check(outputs[others], y, torch.full_like(y, self.target))

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.of.met(logits, y, torch.full_like(y, self.target)) & (y != self.target)

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.of.right(logits, y)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        margin = self.of.margin(logits, y, torch.full_like(y, self.target))
        return margin.where(y != self.target, -1.0)


def _meaning(
    criterion: Criterion, targets: int | Tensor | None, y: Tensor | None, ids: Tensor | None
) -> tuple[Criterion, Tensor | None]:
    """Return criterion and targets of these samples."""
    if isinstance(targets, Tensor):
        return criterion, targets if ids is None else targets[ids.to(targets.device)].to(ids.device)
    if targets is None:
        return criterion, None
    if criterion.outputs == "classes":
        return Towards(criterion, targets), None
    if y is None:
        raise InputError("targets: expected a tensor as long as the data where there are no labels")
    return criterion, torch.full_like(y, targets)


def _image(threat: Threat, t: Tensor, x: Tensor) -> Tensor:
    """Return the images of x [B, ...] with the perturbation t [1, ...]; gradients pass as through x + t."""
    return threat.project(x + t.to(x), x)


@dataclass
class _State:
    """Where an ascent stands after an epoch."""

    step_size: float
    halved: bool = True  # at the last checkpoint
    losses: list[float] = field(default_factory=list)
    spoiled: int = 0  # gradients that were not finite
    passed: tuple[int, int] = (0, 0)
    points: dict[str, Tensor] = field(default_factory=dict)  # now, a step before, the top and its gradient

    def save(self, path: Path, config: dict[str, Any]) -> None:
        plain = {name: value for name, value in vars(self).items() if name != "points"}
        apart = {name: each.clone() for name, each in self.points.items()}  # some of them may be one tensor
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
    threat: Threat
    criterion: Criterion
    targets: int | Tensor | None
    attack: str
    epochs: int
    state: _State

    def __post_init__(self) -> None:
        self.ball = replace(self.threat, box=(-math.inf, math.inf))
        self.state.points = {name: each.to(self.feed.device) for name, each in self.state.points.items()}

    def epoch(self, number: int, tick: Tick | None) -> None:
        """Take a step for each batch of an epoch."""
        state, steps = self.state, self.feed.steps
        totals = torch.zeros(2, dtype=torch.float64, device=self.feed.device)
        before = self.classifier.asked
        for step, batch in enumerate(self.feed.batches(number)):
            gradient, told = self._look(number, self.feed.share(step).count, *batch)
            totals += told
            if step == steps - 1:
                loss, count = totals.tolist()
                state.spoiled += self.feed.epoch_size - int(count)
                gradient = self._close(loss / max(count, 1.0), gradient)
            self._step(number * steps + step, gradient)
            tell(tick, f"epoch {number + 1} of {self.epochs}", number * steps + step + 1, self.epochs * steps)
        passed = (now - then for now, then in zip(self.classifier.asked, before, strict=True))
        all_passed = zip(*processes.tell(tuple(passed)), strict=True)
        state.passed = tuple(map(sum, zip(state.passed, map(sum, all_passed), strict=True)))  # type: ignore[assignment]

    def _look(self, number: int, count: int, x: Tensor, y: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the gradients of a batch, over all processes, and of (losses, samples)."""
        t = self.state.points["now"]
        sums = torch.zeros(t.numel() + 2, dtype=torch.float64, device=t.device)
        with processes.agreement():
            if count:
                sums += self._own(x[:count], y[:count].to(x.device), ids[:count], first=not number)
        sums = processes.add_up(sums)
        return sums[:-2].view_as(t).to(t), sums[-2:]

    def _own(self, x: Tensor, y: Tensor, ids: Tensor, first: bool) -> Tensor:
        """Return the sums over the samples of this process, in float64."""
        known = self.criterion.labels("data", None if y.shape[1:] == (0,) else y, len(x), x.device)
        meant, wanted = _meaning(self.criterion, self.targets, known, ids)
        meant = WRONG if meant.outputs == "logit" else meant.meant_by(self.classifier.model)
        self.classifier.begin(x, ids)
        if known is None or first:
            clean = self.classifier.verdict(x)
            known = fitting(meant, clean, self.classifier.output_shape, known, wanted)
        self.classifier.asks_for(ids)
        points = _image(self.threat, self.state.points["now"], x)
        loss = "margin" if meant is WRONG else meant.margin
        value, _, gradient = self.classifier.input_gradient(points, known, loss, wanted)
        rows = gradient.flatten(1)
        finite = value.isfinite() & rows.isfinite().all(1)
        summed = rows.where(finite[:, None], 0.0).sum(0, dtype=torch.float64)
        return torch.cat(
            [summed, value.where(finite, 0.0).sum(dtype=torch.float64)[None], finite.sum()[None]]
        )

    def _close(self, loss: float, gradient: Tensor) -> Tensor:
        """End an epoch of this mean loss, before its last step; return the gradient for that."""
        state, points = self.state, self.state.points
        if loss > max(state.losses, default=-math.inf) or not state.losses:
            points["top"], points["gradient"] = points["now"], gradient
        state.losses.append(loss)
        interval = _checkpoints(self.epochs - 1).get(number := len(state.losses) - 1)
        if self.attack == "pgd" or interval is None:
            return gradient
        since = state.losses[number - interval :]
        rises = sum(after > before for before, after in pairwise(since))
        stuck = max(state.losses) <= max(state.losses[: number - interval + 1])
        state.halved = rises <= RISING * interval or (stuck and not state.halved)
        if not state.halved:
            return gradient
        state.step_size /= 2
        points["now"] = points["top"]
        return points["gradient"]

    def _step(self, move: int, gradient: Tensor) -> None:
        points, now, size = self.state.points, self.state.points["now"], self.state.step_size
        if self.attack == "pgd":
            size *= 1 - move / (self.epochs * self.feed.steps)
        origin = torch.zeros_like(now)
        ahead = self.ball.step(now, gradient, origin, size)
        if self.attack == "apgd" and move:
            ahead = self.ball.project((2 * now - points["before"]).lerp(ahead, MOMENTUM), origin)
        points["before"], points["now"] = now, ahead


def _checkpoints(moves: int) -> dict[int, int]:
    """Return after how many moves the step may be halved, each with the moves since the one before."""
    interval, shorter, shortest = (max(int(share * moves), 1) for share in (FIRST, SHORTER, SHORTEST))
    found, done = {}, interval
    while done < moves:
        found[done] = interval
        interval = max(interval - shorter, shortest)
        done += interval
    return found


@knowing
def universal(
    model: nn.Module | core.Classifier,
    data: Data,
    threat: Threat,
    *,
    attack: str = "apgd",
    epochs: int = 10,
    batch_size: int = 128,
    targets: int | Tensor | None = None,
    criterion: Criterion | None = None,
    seed: int = 0,
    run_dir: str | PathLike[str] | None = None,
    resume: bool = False,
    identity: str | None = None,
    progress: Progress = False,
) -> UniversalResult:
    """Find one perturbation that turns as many samples of a data set wrong as it can.

    It lies in the ball around zero, and is added to every image, within the box. Each step ascends along the
    sum of the gradients of a batch, which is a function of (seed, epoch); the loss is the margin of the
    criterion. "apgd" has the momentum and the halvings of `apgd`, decided by the mean losses of epochs; the
    step of "pgd" falls to zero in a straight line. What is returned is the perturbation of the epoch with the
    highest mean loss. With all samples in one batch, both are the steps of an attack on that batch.

    Its accuracies on `data`, on which it was found, are lower than on other data. What to publish is its
    accuracy on held-out data: `fa.evaluate(model, test_set, {"universal": out})`.

    The processes of a process group share each batch, and all return the same; up to rounding it is that of
    one process.

    Args:
        model: a module or Frozen; x [B, ...] to logits [B, K], or what else the criterion takes.
        data: as `fa.evaluate` takes it.
        threat: Linf or L2, of one finite radius.
        attack: "apgd" or "pgd".
        epochs: passes through the data, 1 or more.
        batch_size: samples of a step.
        targets: one class, wanted of all samples that are not of it; or a tensor as long as the data, with
            the target of each. None wants anything but y.
        criterion: what a success must fulfill; None asks for a wrong class.
        seed: of the order of samples.
        run_dir: a folder for a checkpoint after each epoch, and at the end for parameters.safetensors, with a
            card. None writes nothing.
        resume: continue a stopped run of `run_dir`, to the same result.
        identity: a text that represents the code of your own model and criterion, which are otherwise known
            by their source. Needed where a source cannot be read.
        progress: True shows a bar on stderr; a function is called with (steps done, steps) after every step.

    Returns:
        A `fastadv.train.UniversalResult`: the perturbation, and an attack with it.

    Raises:
        InputError: an argument cannot work, or the folder holds another run.
        NoGradientError: the model has no gradient.

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
        check_norm("universal", threat, ("linf", "l2"))
        threat.check_one_radius()
        check_finite_radius(threat)
        check_choice("attack", attack, FIRST_STEP)
        check_count("epochs", epochs, 1)
        check_count("batch_size", batch_size, 1)
        check_seed(seed)
        check_progress(progress)
        criterion = check_criterion(criterion)
        labels = labels_of(criterion)
        dataset = as_dataset(data, "data", labels)
        size = sample_count(dataset, name="data")
        targets = _checked_targets(targets, size)
        meant = for_data(criterion, dataset, threat.box)
        first = partial(first_rows, dataset, 1, threat.box, labels)
        classifier = prepare(model, work=2 * epochs * size, rows=lambda: first()[0], outputs=meant.outputs)
        device = classifier.device or torch.device("cpu")
        feed = Feed(dataset, batch_size, None, seed, device, box=threat.box, labels=labels)
        config = {
            "model": describe(classifier, identity=identity), "threat": threat.describe(), "attack": attack,
            "epochs": epochs, "batch_size": batch_size, "targets": describe(targets),
            "criterion": describe(criterion, identity=identity), "seed": seed, "identity": identity,
        }  # fmt: skip
        if check_flag("resume", resume) and run_dir is None:
            raise InputError("run_dir: expected the folder of the run to resume, got None; pass run_dir=")
        if run_dir is not None:
            check_described(config)
    config["data"] = describe_shared(dataset)
    if processes.world() > 1:
        asked = {"run_dir": run_dir and str(run_dir), "resume": resume, "torch": torch.__version__}
        processes.check_alike(config | asked)
    with Keeper(run_dir) as keeper, closing(feed), shown(progress, "perturbing") as tick:
        state = keeper.begun(CHECKPOINT, resume, "a checkpoint", partial(_State.load, config=config))
        if state is None:
            start = torch.zeros_like(first()[0])
            points = dict.fromkeys(("now", "before", "top", "gradient"), start)
            state = _State(float(threat.default_step_size(1, FIRST_STEP[attack])), points=points)
        ascent = _Ascent(classifier, feed, threat, meant, targets, attack, epochs, state)
        with no_gradient():
            for number in range(len(state.losses), epochs):
                ascent.epoch(number, tick)
                keeper.result(CHECKPOINT, partial(state.save, config=config))
        result = _judged(ascent, dataset, criterion, batch_size)
        if keeper.path is not None:
            keeper.result(PARAMETERS, partial(_save, result, config))
    return result


def _checked_targets(targets: Any, size: int) -> int | Tensor | None:
    if targets is None or (isinstance(targets, Tensor) and targets.ndim and len(targets) == size):
        return targets
    if isinstance(targets, Tensor):
        raise InputError(
            f"targets: expected one class for all, or one of each of {size} samples, "
            f"got a tensor {tuple(targets.shape)}"
        )
    return check_count("targets", targets, 0)


def _judged(ascent: _Ascent, dataset: Dataset[Any], criterion: Criterion, batch_size: int) -> UniversalResult:
    """Return the perturbation of the best epoch, with what it does to the data."""
    classifier, state, size = ascent.classifier, ascent.state, ascent.feed.epoch_size
    common = ascent.targets if isinstance(ascent.targets, int) else None
    asked = None if criterion == WRONG else criterion
    result = UniversalResult(state.points["top"][0], ascent.threat, asked, common)
    attack = partial(result.func, targets=ascent.targets)
    table = evaluate(classifier, dataset, {"universal": attack}, batch_size=batch_size, indicators=False)
    row = table["universal"]
    flags = [*row.flags]
    if state.spoiled:
        flags.append(
            f"{state.spoiled} of {size * ascent.epochs} gradients were not finite, and counted for nothing"
        )
    return replace(
        result,
        clean_accuracy=table.clean_accuracy,
        robust_accuracy=row.robust_accuracy,
        losses=tuple(state.losses),
        forwards=state.passed[0] + size + row.forwards,
        backwards=state.passed[1],
        flags=tuple(flags),
    )


def _save(result: UniversalResult, config: dict[str, Any], path: Path) -> None:
    names = ("clean_accuracy", "robust_accuracy", "losses", "forwards", "backwards", "flags")
    measured = {name: getattr(result, name) for name in names}
    text = json.dumps(card("universal", config, **measured))
    save_tensors(path, {"parameters": result.parameters}, {"card": text})
