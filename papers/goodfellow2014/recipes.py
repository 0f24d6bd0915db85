"""The recipes that the paper alone trains by; `fa.train.fit` takes an instance of each."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softplus

import fastadv as fa
from fastadv.errors import InputError

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# of norms whose worst point is known in closed form, the exponent of the dual norm
DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}


def mean_loss(logits: Tensor, y: Tensor, smoothing: float = 0.0, loss: str = "ce") -> Tensor:
    if loss == "bce":
        return fa.losses.binary_cross_entropy(logits, y, smoothing).mean()
    return cross_entropy(logits, y, label_smoothing=smoothing)


def mixture(
    model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, weight: float, smoothing: float, loss: str = "ce"
) -> Tensor:
    """Compute weight · J(x, y) + (1 - weight) · J(x_adv, y) in one pass, so that BatchNorm sees both."""
    if weight == 0:
        return mean_loss(model(x_adv), y, smoothing, loss)
    both = model(torch.cat([x, x_adv])).tensor_split(2)
    clean, changed = (mean_loss(logits, y, smoothing, loss) for logits in both)
    return weight * clean + (1 - weight) * changed


def drawn(kind: Callable[..., Tensor], x: Tensor, ids: Tensor | None, seed: int, purpose: str) -> Tensor:
    """Draw numbers like x, of a kind of `fa.rng`, keyed by (seed, id): 0 .. B - 1 unless given."""
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    return kind(x[0].numel(), fa.rng.derive(seed, purpose), ids).to(x).view_as(x)


@dataclass(frozen=True)
class InputNoise(fa.train.Crafted):
    """Each pixel moves by +radius or -radius ("sign"), or by a number between ("uniform") (section 7)."""

    threat: fa.Linf
    kind: str = "sign"
    weight: float = 0.0
    label_smoothing: float = 0.0

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        noise = 2 * drawn(fa.rng.uniform, x, ids, seed, "input noise") - 1
        if self.kind == "sign":
            noise = (noise >= 0).to(x) * 2 - 1
        return (x + self.threat.radius * noise).clamp(*self.threat.box)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        return mixture(model, x, x_adv, y, self.weight, self.label_smoothing)


@dataclass(frozen=True)
class WeightDecayL1:
    """The loss of `recipe` + coefficient · the sum of `|w|` over the first layer's weights (section 5)."""

    coefficient: float
    recipe: fa.train.Recipe = fa.train.Standard()  # noqa: RUF009 - frozen

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        first = next(weight for weight in model.parameters() if weight.ndim > 1)
        return self.recipe(model, x, y, ids=ids, seed=seed) + self.coefficient * first.abs().sum()


@dataclass(frozen=True)
class RobustLogistic:
    """The mean of `softplus(radius · |w| - y (w x + b))` for y = -1, 1, with the dual norm of w (section 5).

    The paper prints `radius · |w|` inside the bracket, which is right for y = 1 alone. Where the box cuts the
    ball this is an upper bound. The model is linear, of two classes.
    """

    threat: fa.Threat
    weight: float = 0.0
    label_smoothing: float = 0.0

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        reach = self.threat.radius * torch.linalg.vector_norm(_normal(model), DUAL[self.threat.norm])
        logits = model(x)
        # cross-entropy sees the difference of two logits alone, which the attack lessens by `reach`
        worst = mean_loss(logits - reach * one_hot(y, 2), y, self.label_smoothing)
        if self.weight == 0:
            return worst
        return self.weight * mean_loss(logits, y, self.label_smoothing) + (1 - self.weight) * worst


def _normal(model: nn.Module) -> Tensor:
    """Return w, the gradient of the difference of the two logits."""
    if isinstance(model, fa.models.LogisticRegression):
        return model.linear.weight[0]
    if not isinstance(model, fa.models.SoftmaxRegression) or model.linear.out_features != 2:
        raise InputError(f"model: expected a linear one of two classes, got {type(model).__name__}")
    return model.linear.weight[1] - model.linear.weight[0]


@dataclass(frozen=True)
class HiddenFGSM:
    """Goodfellow's objective on the input h of a hidden layer in place of the image (section 6).

    `module` is the name of the layer that h enters: of Maxout, "hidden.1" has the units of the first layer,
    and "linear" those of the last. The direction is that of the model in eval mode.
    """

    module: str | int
    radius: float
    weight: float = 0.5
    label_smoothing: float = 0.0
    loss: str = "ce"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        move = self.radius * self._direction(model, x, y)
        if self.weight > 0:  # the clean half of the batch comes first
            move = torch.cat([torch.zeros_like(move), move])
        with entering(model, str(self.module), lambda h: h + move):
            return mixture(model, x, x, y, self.weight, self.label_smoothing, self.loss)

    def _direction(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the sign of the gradient at h."""
        seen = list[Tensor]()

        def leaf(h: Tensor) -> Tensor:
            seen.append(h.detach().requires_grad_())
            return seen[-1]

        inside = entering(model, str(self.module), leaf)
        with torch.enable_grad(), evaluating(model.modules()), inside:
            logits = model(x)
        by_logits = fa.losses.loss_and_grad(logits.detach(), y, self.loss, direction=True)[1]
        return torch.autograd.grad(logits, seen[0], by_logits.to(logits.dtype))[0].sign()


@contextmanager
def entering(model: nn.Module, module: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give `module` of the model change(h) in place of its input h, inside."""

    def before(part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(given[0]), *given[1:])

    handle = model.get_submodule(module).register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class RubbishTraining:
    """The loss of `recipe` + weight · a loss that penalizes confident predictions on noise (appendix A).

    By "ce" all classes should be equally likely (Hendrycks et al. 2019), by "bce" none. BatchNorm normalizes
    the noise, N(0, 1) in every pixel, by its running statistics, as in tests.
    """

    recipe: fa.train.Recipe = fa.train.Standard()  # noqa: RUF009 - frozen
    weight: float = 1.0
    loss: str = "ce"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        # first, because it moves the running statistics, which the noise's backward pass needs as they are
        loss = self.recipe(model, x, y, ids=ids, seed=seed)
        with evaluating(part for part in model.modules() if isinstance(part, BATCH_NORM)):
            logits = model(drawn(fa.rng.normal, x, ids, seed, "rubbish"))
        denied = softplus(logits).sum(1) if self.loss == "bce" else -logits.log_softmax(1).mean(1)
        return loss + self.weight * denied.mean()


@contextmanager
def evaluating(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Put these parts of a model in eval mode, inside."""
    trained = [part for part in parts if part.training]
    for part in trained:
        part.training = False
    try:
        yield
    finally:
        for part in trained:
            part.training = True


for recipe in (HiddenFGSM, InputNoise, RobustLogistic, RubbishTraining, WeightDecayL1):
    recipe.__module__ = "fastadv.train.recipes"  # as the run folders of `fastadv study` know it
