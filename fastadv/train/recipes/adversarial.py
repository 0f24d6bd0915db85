"""Training on the images as they are, and on examples that one or several steps of ascent craft."""

import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from fastadv._checks import check_choice, check_flag, check_number
from fastadv.attacks.core.criterion import Criterion
from fastadv.engine.arguments import OUTPUTS
from fastadv.errors import InputError
from fastadv.losses import LOSSES, Loss
from fastadv.threat import L0, L1, L2, Threat
from fastadv.train.recipes import _common
from fastadv.train.recipes.base import Crafted, Step, checked, labels_or_outputs
from fastadv.train.recipes.several import DRAWN, Several, drawn, errors, judged, together

METHODS = {"rs": (1.0, 1.25), "n-fgsm": (2.0, 1.0)}  # sizes of noise and step, in radii


def mixture(
    model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, weight: float, smoothing: float,
    loss: Loss = "ce", criterion: Criterion | None = None,
) -> Tensor:  # fmt: skip
    """Compute weight · J(x, y) + (1 - weight) · J(x_adv, y), in one pass, so that BatchNorm sees all."""
    images, parts = (torch.cat([x, x_adv]), 2) if weight else (x_adv, 1)
    if criterion is None:
        logits = _common.logits_at(model, images, y).tensor_split(parts)
        losses = [_common.mean_loss(part, y, smoothing, loss) for part in logits]
        if loss == "ce" and (weight or x_adv is x):
            _common.watch(model, losses[0], logits[0].shape[1])
    else:
        criterion = criterion.for_labels(y)
        with _common.joined(model, images, x):
            outputs = OUTPUTS[criterion.outputs](model(images), len(images)).tensor_split(parts)
        labels = _common.labels_for(criterion, y)
        losses = [criterion.objective(part, labels).mean() for part in outputs]
    return weight * losses[0] + (1 - weight) * losses[1] if weight else losses[0]


@dataclass(frozen=True)
class Standard:
    """The mean cross-entropy on the images as they are.

    Args:
        label_smoothing: the share of each label that is spread over all classes, in [0, 1).
        loss: "ce", the cross-entropy of the softmax; or "bce", the sum over classes of those of a sigmoid
            each, for models that give each class a probability of its own (RBF networks); or a function
            (logits, y, targets) -> [B], such as one with class weights, whose targets are None.
        criterion: of a model of other outputs than classes: `fa.attacks.Signs()`, `Share(least)` or
            `Beyond(distance)`, whose `objective` takes the place of the cross-entropy; None is classes.
    """

    label_smoothing: float = 0.0
    loss: Loss = "ce"
    criterion: Criterion | None = None

    def __post_init__(self) -> None:
        _common.check_objective(self.label_smoothing, self.loss, criterion=self.criterion)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        x, y = checked(self, model, x, y)
        if self.criterion is not None:
            y = labels_or_outputs(self.criterion, model, x, y)
        return mixture(model, x, x, y, 0.0, self.label_smoothing, self.loss, self.criterion)


@dataclass(frozen=True)
class FGSMTraining(Crafted):
    """Goodfellow's objective: weight · J(x, y) + (1 - weight) · J(x_adv, y), the mean over the batch.

    x_adv is one step of steepest ascent from x, as long as the radius. For L∞ it is x + radius · sign(∇J),
    clamped to the threat's box. It is computed with the current weights for each batch, and no gradient flows
    through it.

    Args:
        threat: Linf, L2, L1 or L0 with one finite radius, in input units.
        weight: of the clean images, in [0, 1]; 0.5 as in the paper, 0 trains on x_adv alone.
        label_smoothing: that of J, not of the attack, in [0, 1).
        loss: J, as in `Standard`, which the attack ascends, too.
        criterion: as in `Standard`.

    Source:
        Goodfellow, Shlens, Szegedy 2014 (arXiv 1412.6572), section 6, alpha = 0.5.
    """

    threat: Threat
    weight: float = 0.5
    label_smoothing: float = 0.0
    loss: Loss = "ce"
    criterion: Criterion | None = None

    def __post_init__(self) -> None:
        _common.check_steps(self.threat, 1, None)
        _common.check_objective(self.label_smoothing, self.loss, self.weight, self.criterion)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        length = _common.step_length(self.threat, None)
        return _common.ascent(model, x, y, self.threat, 1, length, loss=self.loss, criterion=self.criterion)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return mixture(model, x, x_adv, y, self.weight, self.label_smoothing, self.loss, self.criterion)


@dataclass(frozen=True)
class FastTraining(Crafted):
    """The mean cross-entropy after one step of ascent from uniform noise, which is keyed by (seed, id).

    Single-step training may overfit to its own attack: watch the accuracy under PGD. "n-fgsm" and a smaller
    step make that less likely.

    Args:
        threat: Linf, L2, L1 or L0 with one finite radius, in input units.
        method: "rs" takes noise in the ball and a step of 1.25 radii, projected on the ball (FGSM-RS).
            "n-fgsm" takes noise in a ball of 2 radii and a step of one radius, not projected on the ball:
            clamped to the box alone, x_adv is up to 3 radii from x.
        step_size: in input units; None is that of the method.
        noise: in radii; None is that of the method.
        label_smoothing: that of the loss, in [0, 1).
        clamp_start: whether the noisy start is clamped to the box. False takes the gradient at x + noise
            outside the box too, and clamps x_adv alone, as in Wong's code for MNIST. Clamped noise on a black
            pixel is 0 half of the time, and a step of 1.25 radii then drives every such pixel to 0 or to the
            radius, never between.
        loss: as in `Standard`, which the attack ascends, too.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", limit=64)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> recipe = fa.train.FastTraining(fa.Linf(0.1), method="n-fgsm")
        >>> len(fa.train.fit(model, digits, recipe, epochs=2))
        2

    Source:
        Wong, Rice, Kolter 2020 (arXiv 2001.03994), algorithm 3; de Jorge et al. 2022 (arXiv 2202.01181),
        algorithm 1.
    """

    threat: Threat
    method: str = "rs"
    step_size: float | None = None
    noise: float | None = None
    label_smoothing: float = 0.0
    clamp_start: bool = True
    loss: Loss = "ce"

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        _common.check_finite(self.threat, "noise in the ball")
        _common.check_objective(self.label_smoothing, self.loss)
        if not check_flag("clamp_start", self.clamp_start) and isinstance(self.threat, L0):
            raise InputError("clamp_start: expected True for L0, which draws from the box, got False")
        _common.step_length(self.threat, self.step_size)
        if self.noise is not None:
            check_number("noise", self.noise, 0, 1 if self.method == "rs" else math.inf)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        noise, factor = METHODS[self.method]
        radius = float(self.threat.radius)
        around = self.threat.with_radius(radius * (noise if self.noise is None else self.noise))
        room = self.threat if self.method == "rs" else self.threat.with_radius(math.inf)
        step_size = _common.step_length(self.threat, self.step_size, factor=factor)
        if not self.clamp_start:
            around = replace(around, box=(-math.inf, math.inf))
        # points uniform in an L2 or L1 ball lie almost on the sphere, too alike for a single step
        length = "uniform" if isinstance(self.threat, L1 | L2) else "ball"
        start = around.random_start(x, seed=seed, ids=ids, length=length)
        return _common.ascent(model, x, y, room, 1, step_size, loss=self.loss, start=start)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return mixture(model, x, x_adv, y, 0.0, self.label_smoothing, self.loss)


@dataclass(frozen=True)
class PGDTraining(Crafted):
    """Madry's objective: the mean cross-entropy after `steps` projected steps of ascent on it.

    A random start is drawn from the ball, keyed by (seed, id). A network with BatchNorm needs clean images
    where the radius is large (MNIST at 0.3), and a `weight` for them: adversarial ones then have other
    statistics, and it would misclassify clean ones.

    Args:
        threat: Linf, L2, L1 or L0 with one radius, in input units; or several of them in one box.
        steps: projected steps, >= 1.
        step_size: in input units; None is 2.5 · radius / steps (rounded up to whole coordinates for L0). Of a
            list of threats one for each.
        random_start: whether to start at a random point of the ball, rather than at x.
        loss: what is trained, as in `Standard`.
        weight: of the loss on clean images, in [0, 1], as in `FGSMTraining`.
        label_smoothing: the share of each label that is spread over all classes, in [0, 1).
        criterion: as in `Standard`.
        attack_loss: what the attack ascends: a name of `fastadv.losses.LOSSES`, or a function (logits, y,
            targets) -> [B]; None is `loss`.
        choose: what several threats do. "worst", which None is, takes for each sample the example of the
            largest loss in eval mode (MAX), "mean" the mean of the objectives of all (AVG). "random" draws
            one threat for each batch (RAND). "harder" draws it with weights, once all were drawn: the share
            of samples that the model in eval mode had wrong under each in this epoch, with one wrong sample
            more (E-AT, whose authors count over the whole run). Those two need `fit`, or an `fa.train.Step`.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", limit=64)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> recipe = fa.train.PGDTraining(fa.L2(0.5), steps=3)
        >>> loss = recipe(model, digits.x, digits.y, seed=0)  # as in a loop of your own
        >>> loss.requires_grad, loss.ndim
        (True, 0)

    Source:
        Madry et al. 2018 (arXiv 1706.06083), equation 2.1. Several threats: Tramèr, Boneh 2019 (arXiv
        1904.13000); Croce, Hein 2022 (arXiv 2105.12508).
    """

    threat: Threat | Several | Sequence[Threat]
    steps: int = 7
    step_size: float | Sequence[float] | None = None
    random_start: bool = True
    loss: Loss = "ce"
    weight: float = 0.0
    label_smoothing: float = 0.0
    criterion: Criterion | None = None
    attack_loss: Loss | None = None
    choose: InitVar[str | None] = None

    def __post_init__(self, choose: str | None) -> None:
        listed, sizes = isinstance(self.threat, Sequence), self.step_size
        threat = together(self.threat, choose)
        object.__setattr__(self, "threat", threat)
        if isinstance(threat, Several):
            self.each()  # checks all
            object.__setattr__(self, "step_size", sizes and tuple(cast(Sequence[float], sizes)))
            return
        if listed and isinstance(sizes, Sequence) and len(sizes) == 1:  # of a list of one
            object.__setattr__(self, "step_size", sizes[0])
        _common.check_steps(threat, self.steps, cast(float | None, self.step_size))
        _common.check_objective(self.label_smoothing, self.loss, self.weight, self.criterion)
        if not (self.criterion or self.attack_loss is None or callable(self.attack_loss)):
            check_choice("attack_loss", self.attack_loss, LOSSES, " or a function")
        if self.random_start and not threat.finite:
            raise InputError(
                "radius: expected a finite one for a random start, got inf; set random_start=False"
            )

    def each(self) -> Sequence["PGDTraining"]:
        if not isinstance(self.threat, Several):
            return [self]
        threats = self.threat.threats
        sizes = [None] * len(threats) if self.step_size is None else self.step_size
        if not isinstance(sizes, Sequence) or len(sizes) != len(threats):
            raise InputError(f"step_size: expected None or one for each threat, got {sizes!r}; give a list")
        pairs = zip(threats, sizes, strict=True)
        return [replace(self, threat=threat, step_size=step_size) for threat, step_size in pairs]

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        """Return x_adv; of several threats each sample's of the largest loss, whatever they `choose`."""
        if isinstance(self.threat, Several):
            examples = [one.craft(model, x, y, ids=ids, seed=seed) for one in self.each()]
            by = "objective" if self.loss == "ce" else partial(_common.each_loss, self.loss)
            losses = [judged(by, model, x, y, x_adv, self.criterion) for x_adv in examples]
            largest = torch.stack(losses).argmax(0)  # the first among equals
            return torch.stack(examples)[largest, torch.arange(len(x), device=x.device)]
        threat, step_size = cast(Threat, self.threat), cast(float | None, self.step_size)
        start = threat.random_start(x, seed=seed, ids=ids) if self.random_start else None
        loss = self.loss if self.attack_loss is None else self.attack_loss
        return _common.ascent(
            model, x, y, threat, self.steps, step_size, loss=loss, start=start, criterion=self.criterion
        )

    def _maker(self) -> Callable[..., Callable[[], Tensor]]:
        return self._of_several if isinstance(self.threat, Several) else self._crafted

    def _of_several(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int
    ) -> Callable[[], Tensor]:
        assert isinstance(self.threat, Several)
        choose = self.threat.choose
        if choose in DRAWN:
            raise InputError(
                f"choose: expected 'worst' or 'mean' in a call as a loss, which knows no other batch, got "
                f"{choose!r}; train with fa.train.fit, or call recipe.step(fa.train.Step(...))"
            )
        if choose != "mean":
            return self._crafted(model, x, y, ids=ids, seed=seed)
        losses = [one._crafted(model, x, y, ids=ids, seed=seed) for one in self.each()]
        return lambda: torch.stack([loss() for loss in losses]).mean()

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return mixture(model, x, x_adv, y, self.weight, self.label_smoothing, self.loss, self.criterion)

    @property
    def step(self) -> Callable[[Step], Tensor] | None:
        """Its own step, of a recipe that draws a threat for each batch."""
        draws = isinstance(self.threat, Several) and self.threat.choose in DRAWN
        return self._drawn_step if draws else None

    def _drawn_step(self, at: Step) -> Tensor:
        (x, y), each = checked(self, at.model, at.x, at.y), self.each()
        counts = errors(at, len(each))
        place = drawn(at, counts)
        with at.autocast():
            x_adv = each[place].craft(at.model, x, y, ids=at.ids, seed=at.seed)
            if cast(Several, self.threat).choose == "harder":
                right = judged("right", at.model, x, y, x_adv, self.criterion)
                wrong = at.share.whole((~right).long())  # of all processes
                counts[:, place] += torch.stack([wrong.sum(), wrong.new_tensor(len(wrong))])
            y = labels_or_outputs(self.criterion, at.model, x, y)
            loss = self.objective(at.model, x, y, x_adv)
        at.backward(loss)
        at.descend()
        return loss.detach()
