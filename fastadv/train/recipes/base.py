"""What a recipe is: a loss, or a step of its own."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeGuard, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastadv._checks import eager, knowing
from fastadv._waiting import waits
from fastadv.attacks.core import checks
from fastadv.attacks.core.criterion import WRONG, Criterion, fitting
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.labels import INTEGERS
from fastadv.threat.checks import from_bytes
from fastadv.train._share import Share, mean
from fastadv.train.recipes._followers import follower, in_run


class Recipe(Protocol):
    """A loss to train on: a function of (model, x, y) to a differentiable scalar, the mean over the batch.

    `ids`, the sample numbers, and `seed` key its random numbers. A function of your own may do without: `fit`
    and `AWP` pass those that its signature names, and both where it has `**keywords`. The recipes of this
    library may be called without them: noise is then fresh in each call, by a seed from torch's generator;
    with ids alone the seed is 0.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int = 0
    ) -> Tensor: ...


def _unnoted(loss: Tensor) -> None:
    """Write nothing down."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch of a run, for a recipe that owns its step.

    Where several processes share the batch, x, y and ids are this process's samples, and losses are their
    means; gradients are those of the mean over the whole batch. What is written to `state` must be the same
    everywhere: `share.whole(rows)` are the rows of the whole batch, in its order.

    Args:
        model: the model that trains.
        x: floating [B, ...], on the model's device.
        y: int64 [B], labels.
        ids: int64 [B], positions in the training set.
        seed: keys the attack's random numbers of this epoch.
        epoch: from 1.
        optimizer: of the run.
        index: of the batch in its epoch, from 0.
        check: takes a loss for the report, in place of an earlier one of this batch.
        clip_norm: the largest norm of all gradients together; None sets no limit.
        state: tensors by name, which the recipe makes; they begin empty and are part of the checkpoint.
        places: the same, with a row for each of this process's places in a full batch.
        precision: of the run, as in `Execution`.
        share: this process's share of the batch.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    seed: int
    epoch: int
    optimizer: Optimizer
    index: int = 0
    check: Callable[[Tensor], None] = _unnoted
    clip_norm: float | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, Tensor] = field(default_factory=dict)
    precision: str = "fp32"
    share: Share = field(default_factory=lambda: Share(1))  # one process has all

    def autocast(self) -> torch.autocast:
        """Return a context of the run's precision. Leave it before weights change: it caches casts."""
        return torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        """Compute fresh gradients of a loss."""
        self.check(loss)
        if not loss.requires_grad:
            raise InputError(
                "recipe: expected a loss that depends on the weights, got one without a graph; compute it "
                "without detach(), no_grad() or item()"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.share.weighted(mean(loss)).backward()  # type: ignore[no-untyped-call]
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        sums = self.share.add_up([weight.grad for weight in weights], weights)
        for weight, gradient in zip(weights, sums, strict=True):
            weight.grad = gradient

    def gradients(self, loss: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Return the gradient of a loss for each of some weights; None where it does not depend on one."""
        gradients = torch.autograd.grad(self.share.weighted(mean(loss)), weights, allow_unused=True)
        return self.share.add_up(gradients, weights)

    def descend(self) -> None:
        """Take one step of the optimizer along the gradients, whose norm is first limited to `clip_norm`."""
        if self.clip_norm is not None:
            # frozen weights may hold gradients of the caller's
            groups = self.optimizer.param_groups
            nn.utils.clip_grad_norm_([w for group in groups for w in group["params"]], self.clip_norm)
        self.optimizer.step()


class OwnStep(Protocol):
    """A recipe that owns what a batch does: its passes, its optimizer steps, what it keeps between batches.

    The recipe itself does not change; whatever changes during a run is kept in `at.state`, and in `at.places`
    under the names in its attribute `places`.
    """

    def step(self, at: Step) -> Tensor:
        """Return the mean loss of a batch, for the report, after training on it."""
        ...


def owns_step(recipe: object) -> TypeGuard[OwnStep]:
    return callable(getattr(recipe, "step", None)) and not isinstance(recipe, type)


def check_recipe(recipe: object) -> None:
    """Raise InputError unless `recipe` has a step of its own, or can be called as a loss."""
    if owns_step(recipe) or is_loss(recipe):
        return
    raise InputError(
        "recipe: expected a function of (model, x, y), which may also take ids and seed, or an object with a "
        f"step, got {recipe!r}; for example fa.train.PGDTraining(fa.Linf(8 / 255))"
    )


def is_loss(recipe: object) -> bool:
    """Return whether `recipe` can be called as a loss on (model, x, y)."""
    if not callable(recipe) or isinstance(recipe, type):  # a recipe's class takes a threat
        return False
    try:
        _signature(recipe).bind("model", "x", "y", **_keys(recipe, ids=None, seed=0))
    except TypeError:
        return False
    except ValueError:  # what is written in C may not tell
        pass
    return True


def _signature(recipe: Callable[..., object]) -> inspect.Signature:
    """Return the signature of a loss; the call of a module itself takes anything."""
    return inspect.signature(recipe.forward if isinstance(recipe, nn.Module) else recipe)


def _keys(recipe: Callable[..., object], **keys: Any) -> dict[str, Any]:
    """Return those of the keys of random numbers that a loss takes."""
    try:
        takes = _signature(recipe).parameters
    except ValueError:
        return {}
    every = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    return {name: value for name, value in keys.items() if every or name in takes}


def loss_of(recipe: Callable[..., Tensor]) -> Callable[..., Callable[[], Tensor]]:
    """Return what makes, of the arguments of a recipe, its loss as a function of the weights alone."""
    if isinstance(recipe, Crafted) and type(recipe).__call__ is Crafted.__call__:
        return recipe._maker()
    return lambda *batch, **keys: partial(recipe, *batch, **_keys(recipe, **keys))


def seed_of(seed: int | None, ids: Tensor | None) -> int:
    """Return the seed of a call to a recipe: without seed and ids a fresh one, so that batches differ."""
    if seed is not None:
        return seed
    return int(torch.randint(1 << 62, (), device="cpu")) if ids is None else 0


_met: "WeakSet[nn.Module]" = WeakSet()  # models whose first images were checked


def checked(recipe: object, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return images, and labels of integers in int64; InputError outside the box of the recipe's threat."""
    if in_run():  # which has checked its own
        return x, y
    y = y.long() if isinstance(y, Tensor) and y.dtype in INTEGERS else y
    threat = getattr(recipe, "threat", None)
    images: Tensor = from_bytes(x, (0, 1) if threat is None else threat.box)
    if threat is None:
        return images, y
    # reading values waits for a GPU: there the first batch of a model stands for the others
    checks.check_images(images, threat.box, values=not waits(x.device) or model not in _met)
    _met.add(model)
    return images, y


def is_missing(y: Tensor | None) -> bool:
    """Return whether there are no labels; those of a set of images alone are [B, 0]."""
    return y is None or (isinstance(y, Tensor) and y.shape[1:] == (0,))


def labels_or_outputs(
    criterion: Criterion | None, model: nn.Module | Prepared, x: Tensor, y: Tensor | None
) -> Tensor:
    """Return y; where there is none, what the criterion makes of the outputs at x, in eval mode."""
    if not is_missing(y):
        return cast(Tensor, y)
    criterion = WRONG if criterion is None else criterion
    prepared = follower(model, criterion.outputs)
    outputs = prepared(x)
    return fitting(criterion, outputs, prepared.output_shape, None, None)


def innermost(recipe: object) -> object:
    while hasattr(recipe, "recipe"):
        recipe = recipe.recipe
    return recipe


@knowing
def craft(
    recipe: Recipe | OwnStep, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:  # fmt: skip
    """Return the examples that a recipe trains on at the present weights, without a gradient.

    The model's modes, gradients and statistics are not changed. Of recipes around another one, such as AWP,
    these are the examples of the inner one; of several threats each sample's of the largest loss.

    Args:
        recipe: one that crafts examples, such as `PGDTraining`.
        model: the model that trains.
        x: floating [B, ...], in the box of the recipe's threat.
        y: int [B], labels.
        ids: int [B], stable sample numbers; None is 0 to B - 1. Noise is keyed by (seed, id).
        seed: of the noise. Without ids and seed it is fresh in each call, by a seed from torch's generator;
            with ids alone the seed is 0.

    Returns:
        x_adv, like x.

    Raises:
        InputError: the recipe crafts no examples apart from its step, such as Standard and FreeTraining; or
            images lie outside the box.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> recipe = fa.train.PGDTraining(fa.Linf(0.1), steps=3)
        >>> x_adv = fa.train.craft(recipe, model, x, y, seed=0)
        >>> bool(fa.Linf(0.1).contains(x_adv, x).all())
        True
    """
    inner = innermost(recipe)
    if not isinstance(inner, Crafted):
        raise InputError(
            f"recipe: expected one that crafts examples, got {type(inner).__name__}; for example "
            "fa.train.PGDTraining"
        )
    x, y = checked(inner, model, x, y)
    return inner.craft(model, x, y, ids=ids, seed=seed_of(seed, ids))


class Crafted:
    """A recipe in two parts: examples are crafted, and a loss of them is minimized.

    A wrapper such as AWP takes the loss several times on the same examples.
    """

    def each(self) -> Sequence["Crafted"]:
        """Return the recipe of each of its threats alone."""
        return [self]

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int) -> Tensor:
        """Return x_adv, without a gradient. The model's modes, gradients and statistics do not change."""
        raise NotImplementedError

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
        """Return the loss of the model in its own mode, a differentiable scalar, the mean over the batch."""
        raise NotImplementedError

    @eager
    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None = None, seed: int | None = None
    ) -> Tensor:
        """Return the mean loss over the batch. See `seed_of` for a call without ids or seed."""
        return self._maker()(model, x, y, ids=ids, seed=seed_of(seed, ids))()

    def _maker(self) -> Callable[..., Callable[[], Tensor]]:
        """Return what crafts examples and returns the loss on them, without a call of its own in between."""
        return self._crafted

    def _crafted(
        self, model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor | None, seed: int
    ) -> Callable[[], Tensor]:
        """Craft examples now, and return the loss on them as a function of the weights."""
        x, y = checked(self, model, x, y)
        x_adv = self.craft(model, x, y, ids=ids, seed=seed)
        y = labels_or_outputs(getattr(self, "criterion", None), model, x, y)
        return partial(self._loss, model, x, y, x_adv, ids, seed)

    def _loss(
        self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, ids: Tensor | None, seed: int
    ) -> Tensor:
        """Return the objective, for a recipe whose loss meets the noise again that its examples met."""
        return self.objective(model, x, y, x_adv)
