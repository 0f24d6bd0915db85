"""BatchNorm folded into the layer before it, by observation: one pass fewer over the activations.

One pass is watched. Where a BatchNorm in eval mode is the only reader of what a convolution or linear layer
returned, that layer computes with the weights of both from then on, and the BatchNorm returns what it is
given. Each pass checks that this still holds (`Promises`); no trace replaces the model's own Python.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from operator import is_
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv._torch import BatchNorm, version
from fastadv.engine.copying.closures import reachable

# of F.batch_norm
ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
DEFAULTS = {"weight": None, "bias": None, "training": False, "eps": 1e-5}
# bytes of a kernel of 1 by 1, and how many rows of its result take as much, from which it is not folded: the
# copy of a ResNet-50 takes 28 MiB less, and no longer
LARGE, MANY = 1 << 20, 8


class Refused(BaseException):
    """Not as watched: a folded layer was used in another way. The model's own handlers do not catch it."""

    def __init__(self, pair: "Pair") -> None:
        super().__init__()
        self.pair = pair


class Norm(NamedTuple):
    """What F.batch_norm was called with in eval mode."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @classmethod
    def of(cls, args: tuple[Any, ...], named: dict[str, Any]) -> "Norm | None":
        """Read the arguments; None where the statistics are the batch's, or a parameter gets a gradient."""
        if named or len(args) != len(ARGUMENTS):  # torch's own layers give all by position
            given = DEFAULTS | dict(zip(ARGUMENTS, args, strict=False)) | named
            args = tuple(given.get(name) for name in ARGUMENTS)
        _, mean, var, weight, bias, training, _, eps = args
        if training or mean is None or var is None:
            return None
        learns = any(part is not None and part.requires_grad for part in (mean, var, weight, bias))
        return None if learns else cls(mean, var, weight, bias, eps)

    def same(self, other: "Norm | None") -> bool:
        return other is not None and self.eps == other.eps and all(map(is_, self[:4], other[:4]))


class Pair:
    """A layer and the BatchNorm that alone reads it, as one layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: Norm, name: str) -> None:
        self.weight, self.bias, self.norm, self.name = weight, bias, norm, name
        self.made, self._known = self._fold(), self._versions()

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, *self.norm[:4]

    def _versions(self) -> list[tuple[int, int]]:
        """Return what changes with each write into a tensor of the two, except by `tensor.data.mul_`."""
        return [(version(part), part.data_ptr()) for part in self._parts() if part is not None]

    def _fold(self) -> tuple[nn.Parameter, nn.Parameter]:
        weight, bias = _folded(self.weight, self.bias, self.norm)
        return nn.Parameter(weight, False), nn.Parameter(bias, False)

    def take(self, origin: Mapping[int, Tensor]) -> None:
        """Fold anew, in place, from the tensors in `origin`, by the ids of the two layers' own."""
        weight, bias, *norm = [origin.get(id(part), part) for part in self._parts()]
        folded = _folded(cast(Tensor, weight), bias, Norm._make((*norm, self.norm.eps)))
        for made, new in zip(self.made, folded, strict=True):
            made.copy_(new)
        self._known = self._versions()

    def lie_in(self, weight: Tensor) -> None:
        """Take the memory of a tensor of the same values for the unfolded weight."""
        self.weight.data = weight.data
        self._known = self._versions()

    def cast(self, dtype: torch.dtype) -> None:
        for made in self.made:
            made.data = made.data.to(dtype)
        self._known = self._versions()

    @property
    def fresh(self) -> bool:
        """Whether no tensor of the two was written to since they were folded."""
        return self._versions() == self._known

    def folded(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of the layer with the weights of both."""
        if not self.fresh:  # the model has written to its weights or statistics
            dtype = self.made[0].dtype
            self.made = self._fold()
            self.cast(dtype)
        return args[0], *self.made, *args[3:]


def _folded(weight: Tensor, bias: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer and the BatchNorm after it as one, rounded once."""
    factor = (norm.var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -norm.mean.double() if bias is None else bias.double() - norm.mean.double()
    shift = shift * factor
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    both = weight.double() * factor.view(-1, *[1] * (weight.ndim - 1))
    return torch.empty_like(weight).copy_(both), shift.to(weight.dtype)


class Folds:
    """The folded pairs of one model."""

    name = "fold"
    layers = frozenset((F.conv1d, F.conv2d, F.conv3d, F.linear))

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(weight): name.removesuffix(".weight") for name, weight in model.named_parameters()}
        self._weights = list(model.parameters())  # held, so that no other tensor gets an id of theirs
        self._pairs: dict[int, Pair] = {}
        self.unknown = True
        self.widest = 0  # bytes a row of the largest result of a layer, in the pass that was watched

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(tuple(self._pairs.values()))

    def owns(self, weight: object) -> bool:
        """Return whether that is a parameter of the model; a tensor made in a pass is not."""
        return id(weight) in self._names

    def pair(self, args: tuple[Any, ...]) -> Pair | None:
        """Return the pair of the layer that is called with these arguments."""
        if len(args) < 2:
            return None
        pair = self._pairs.get(id(args[1]))
        if pair is None or pair.bias is not (args[2] if len(args) > 2 else None):
            return None
        # BatchNorm works along the second dimension, a linear layer in [B, C, D] along the third, and a
        # convolution in [C, D] along the first
        return pair if args[0].ndim == pair.weight.ndim else None

    def learn(self, seen: "Watch") -> None:
        self.unknown, self.widest = False, seen.widest
        for weight, bias, norm, row in seen.pairs():
            # others lie in memory of their own, folded or not
            shared = weight.ndim > 2 and weight[0, 0].numel() == 1
            if not (shared and weight.nbytes > max(LARGE, MANY * row)):
                self._pairs[id(weight)] = Pair(weight, bias, norm, self._names[id(weight)])

    def release(self, model: nn.Module) -> None:
        """Let unfolded weights lie where those of `model` do, which are the same; passes read folded ones."""
        theirs = {name.removesuffix(".weight"): weight for name, weight in model.named_parameters()}
        for pair in self:
            pair.lie_in(theirs[pair.name])

    def refuse(self, pair: Pair) -> bool:
        """Fold that pair no more; return whether it was folded so far."""
        return self._pairs.pop(id(pair.weight), None) is not None


class Watch:
    """Records which calls read the results of layers, in one pass."""

    def __init__(self, folds: Folds) -> None:
        self.folds = folds
        # by the id of what a layer returned: that, the layer's weight and bias, and who has read it
        self._seen: dict[int, tuple[Tensor, Tensor, Tensor | None, list[Norm | None]]] = {}

    @property
    def open(self) -> bool:
        return bool(self._seen)

    @property
    def widest(self) -> int:
        made = [each[0] for each in self._seen.values()]
        return max((each.nbytes // max(len(each), 1) for each in made), default=0)

    def made(
        self, func: Callable[..., Any], args: tuple[Any, ...], pair: Pair | None, made: Tensor
    ) -> Tensor:
        """Return what a layer returns, which is watched from now on."""
        if len(args) > 1 and self.folds.owns(args[1]) and (func is not F.linear or args[0].ndim == 2):
            self._seen[id(made)] = made, args[1], args[2] if len(args) > 2 else None, []
        return made

    def kept(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for place, value in enumerate((*args, *kwargs.values())):
            for tensor in _tensors(value):
                read = self._seen.get(id(tensor))
                if read is not None:
                    by_norm = func is F.batch_norm and place == 0
                    read[3].append(Norm.of(args, kwargs) if by_norm else None)

    def finish(self, logits: object, replays: bool = False) -> None:
        read = self._seen.get(id(logits))
        if read is not None:
            read[3].append(None)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor | None, Norm, int]]:
        """Yield (weight, bias, norm, bytes a row) of layers whose results one BatchNorm alone has read."""
        by_weight: dict[int, list[tuple[Tensor, Tensor | None, Norm | None, int]]] = {}
        for made, weight, bias, readers in self._seen.values():
            norm, row = readers[0] if len(readers) == 1 else None, made.nbytes // max(len(made), 1)
            by_weight.setdefault(id(weight), []).append((weight, bias, norm, row))
        for calls in by_weight.values():
            weight, bias, norm, row = calls[0]
            if norm is not None and all(norm.same(other[2]) and other[1] is bias for other in calls):
                yield weight, bias, norm, row


class Promises:
    """Results of folded layers in one pass: aliases of what their BatchNorm, their only reader, returns."""

    def __init__(self, folds: Folds) -> None:
        self.folds = folds
        # by the id of what a layer returned: that, the pair, and what its BatchNorm is to return
        self._given: dict[int, tuple[weakref.ref[Tensor], Pair, list[Tensor]]] = {}

    @property
    def open(self) -> bool:
        return bool(self._given)

    def made(
        self, func: Callable[..., Any], args: tuple[Any, ...], pair: Pair | None, made: Tensor
    ) -> Tensor:
        """Return what a layer returns; an alias where a pair has given `made`."""
        if pair is None:
            return made
        alias = made.view_as(made)
        self._given[id(alias)] = weakref.ref(alias), pair, [made]
        return alias

    def kept(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Return what a BatchNorm returns for the result of its layer; another reader is Refused."""
        if func is F.batch_norm and args:
            pair, made = self._of(args[0])
            if pair is not None:
                if made and pair.fresh and pair.norm.same(Norm.of(args, kwargs)):
                    return made.pop()
                raise Refused(pair)
        for value in (*args, *kwargs.values()):
            for tensor in _tensors(value):
                pair, _ = self._of(tensor)
                if pair is not None:
                    raise Refused(pair)
        return None

    def _of(self, tensor: object) -> tuple[Pair | None, list[Tensor]]:
        known = self._given.get(id(tensor))
        if known is None or known[0]() is not tensor:
            return None, []
        return known[1], known[2]

    def finish(self, logits: object, replays: bool = False) -> None:
        """Raise Refused where a result was returned, kept or not read; a graph that `replays` keeps all."""
        for alias, pair, made in self._given.values():
            # read by no BatchNorm, or held by someone who may read it yet
            if made or alias() is logits or (alias() is not None and not replays):
                raise Refused(pair)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


def has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, BatchNorm) for part in module.modules())


def is_scripted(module: nn.Module) -> bool:
    """Return whether it holds scripted code, whose reading of a tensor is not seen."""
    return any(
        isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction) for part in reachable(module)
    )
