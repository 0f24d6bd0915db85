"""BatchNorm folded into the layer before it, by observation: one pass fewer over the activations.

One pass is watched. Where a BatchNorm in eval mode is the only reader of what a convolution or linear layer
returned, that layer computes with the weights of both from then on, and the BatchNorm returns what it is
given. Each pass checks that this still holds (`Promises`); no trace replaces the model's own Python.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv._torch import BatchNorm, version

# of F.batch_norm
ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
DEFAULTS = {"weight": None, "bias": None, "training": False, "eps": 1e-5}
# bytes of a kernel of 1 by 1, and how many rows of its result take as much, from which it is not folded: the
# copy of a ResNet-50 takes 28 MiB less, and no longer
LARGE, MANY = 1 << 20, 8
Run = Callable[[tuple[Any, ...]], Tensor]
REFUSED = "a folded layer, {}, whose result is not read by its BatchNorm alone"


class Refused(BaseException):
    """Not as watched: a folded layer was used in another way. The model's own handlers do not catch it."""


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
        values: dict[str, Any] = DEFAULTS | dict(zip(ARGUMENTS, args, strict=False)) | named
        norm = cls(*(values[name] for name in ("running_mean", "running_var", "weight", "bias", "eps")))
        learns = any(getattr(part, "requires_grad", False) for part in norm)
        return None if values["training"] or norm.mean is None or learns else norm

    def same(self, other: "Norm | None") -> bool:
        return other is not None and self.eps == other.eps and all(map(is_, self[:4], other[:4]))


class Pair:
    """A layer and the BatchNorm that alone reads it, as one layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: Norm, name: str) -> None:
        self.weight, self.bias, self.norm, self.name = weight, bias, norm, name
        self.made = [nn.Parameter(part, False) for part in self._folded({})]
        self._then = self._versions()

    def _parts(self) -> list[Tensor | None]:
        return [self.weight, self.bias, *self.norm[:4]]

    def _versions(self) -> list[tuple[int, int]]:
        """Return what changes with each write into a tensor of the two, except by `tensor.data.mul_`."""
        return [(version(part), part.data_ptr()) for part in self._parts() if part is not None]

    def _folded(self, origin: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Return weight and bias of both as one, rounded once; from tensors in `origin`, by ids of these."""

        def wide(part: Tensor | None, default: int) -> Any:
            return default if part is None else origin.get(id(part), part).double()

        weight, bias, mean, var, scale, shift = map(wide, self._parts(), (0, 0, 0, 0, 1, 0))
        factor = (var + self.norm.eps).rsqrt() * scale
        moved = (bias - mean) * factor + shift
        both = weight * factor.view(-1, *[1] * (weight.ndim - 1))
        return torch.empty_like(self.weight).copy_(both), moved.to(self.weight.dtype)

    def take(self, origin: Mapping[int, Tensor]) -> None:
        """Fold anew, in place, from the tensors in `origin`, by the ids of the two layers' own."""
        for made, new in zip(self.made, self._folded(origin), strict=True):
            made.copy_(new)
        self._then = self._versions()

    def lie_in(self, weight: Tensor) -> None:
        """Take the memory of a tensor of the same values for the unfolded weight."""
        self.weight.data = weight.data
        self._then = self._versions()

    @property
    def fresh(self) -> bool:
        """Whether no tensor of the two was written to since they were folded."""
        return self._versions() == self._then


class Folds:
    """The folded pairs of one model, by the ids of their weights."""

    name = "fold"
    layers = frozenset((F.conv1d, F.conv2d, F.conv3d, F.linear))

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(weight): name.removesuffix(".weight") for name, weight in model.named_parameters()}
        self._weights = list(model.parameters())  # held, so that no other tensor gets an id of theirs
        self.pairs: dict[int, Pair] = {}
        self.widest = 0  # bytes a row of the largest result of a layer, in the pass that was watched

    def take(self, origin: Mapping[int, Tensor]) -> None:
        """Fold anew from the model's tensors, by the ids of those of the copy."""
        for pair in self.pairs.values():
            pair.take(origin)

    def release(self, origin: Mapping[int, Tensor]) -> None:
        """Let unfolded weights lie where the model's do, which are the same; passes read folded ones."""
        for key, pair in self.pairs.items():
            pair.lie_in(origin[key])


class Reads:
    """What a pass does beside its calls of layers: nothing, where none is folded."""

    open = False

    def __init__(self) -> None:
        self.used: list[str] = []  # names of rewrites

    def read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Take a call; what is returned takes the place of its result."""

    def layer(self, args: tuple[Any, ...], run: Run) -> Tensor:
        """Return what a layer returns, which `run` computes for its arguments."""
        return run(args)

    def finish(self, logits: object, replays: bool = False) -> None:
        """Take what the pass returns; a graph that `replays` keeps all that it made."""


class Watch(Reads):
    """Records which calls read the results of layers, in one pass."""

    def __init__(self, folds: Folds) -> None:
        super().__init__()
        self.folds = folds
        # by the id of what a layer returned: that, the layer's weight and bias, and who has read it
        self._seen: dict[int, tuple[Tensor, Tensor, Tensor | None, list[Norm | None]]] = {}

    @property
    def open(self) -> bool:  # type: ignore[override]
        return bool(self._seen)

    def layer(self, args: tuple[Any, ...], run: Run) -> Tensor:
        made = run(args)
        x, weight, bias, *_ = *args, None, None
        # BatchNorm works along the second dimension, a linear layer in [B, C, D] along the third, and a
        # convolution in [C, D] along the first; a tensor made in a pass is no parameter
        if id(weight) in self.folds.names and x.ndim == weight.ndim:
            self._seen[id(made)] = made, weight, bias, []
        return made

    def read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for place, value in enumerate((*args, *kwargs.values())):
            for tensor in _tensors(value):
                if id(tensor) in self._seen:
                    by_norm = func is F.batch_norm and place == 0
                    self._seen[id(tensor)][3].append(Norm.of(args, kwargs) if by_norm else None)

    def finish(self, logits: object, replays: bool = False) -> None:
        """Fold what one BatchNorm alone has read."""
        self.read(None, (logits,), {})
        by_weight: dict[int, list[tuple[Tensor, Tensor | None, list[Norm | None]]]] = {}
        kept = set[int]()
        for made, weight, bias, readers in self._seen.values():
            row = made.nbytes // max(len(made), 1)
            self.folds.widest = max(self.folds.widest, row)
            by_weight.setdefault(id(weight), []).append((weight, bias, readers))
            # others lie in memory of their own, folded or not
            if (
                weight[0].numel() == weight.shape[1]
                and weight.ndim > 2
                and weight.nbytes > max(LARGE, MANY * row)
            ):
                kept.add(id(weight))
        for key in by_weight.keys() - kept:
            weight, bias, readers = by_weight[key][0]
            norm = readers[0] if readers else None
            alone = all(len(call[2]) == 1 and call[1] is bias for call in by_weight[key])
            if norm is not None and alone and all(norm.same(call[2][0]) for call in by_weight[key]):
                self.folds.pairs[key] = Pair(weight, bias, norm, self.folds.names[key])


class Promises(Reads):
    """Results of folded layers in one pass: aliases of what their BatchNorm, their only reader, returns."""

    def __init__(self, folds: Folds) -> None:
        super().__init__()
        self.folds = folds
        # by the id of what a layer returned: that, the pair, and what its BatchNorm is to return
        self._aliases: dict[int, tuple[weakref.ref[Tensor], Pair, list[Tensor]]] = {}

    @property
    def open(self) -> bool:  # type: ignore[override]
        return bool(self._aliases)

    def layer(self, args: tuple[Any, ...], run: Run) -> Tensor:
        x, weight, bias, *_ = *args, None, None
        pair = self.folds.pairs.get(id(weight))
        if pair is None or pair.bias is not bias or x.ndim != weight.ndim:
            return run(args)
        self.used.append(Folds.name)
        made = run((x, *pair.made, *args[3:]))
        alias = made.view_as(made)
        self._aliases[id(alias)] = weakref.ref(alias), pair, [made]
        return alias

    def read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Return what a BatchNorm returns for the result of its layer; another reader is Refused."""
        for tensor in _tensors((args, kwargs)):
            alias, pair, made = self._aliases.get(id(tensor), (lambda: None, None, []))
            if pair is not None and alias() is tensor:
                norm = Norm.of(args, kwargs) if func is F.batch_norm and args[0] is tensor else None
                if made and pair.fresh and pair.norm.same(norm):
                    return made.pop()
                raise Refused(REFUSED.format(pair.name))
        return None

    def finish(self, logits: object, replays: bool = False) -> None:
        """Raise Refused where a result was returned, kept or not read."""
        for alias, pair, made in self._aliases.values():
            # read by no BatchNorm, or held by someone who may read it yet
            if made or alias() is logits or (alias() is not None and not replays):
                raise Refused(REFUSED.format(pair.name))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, BatchNorm) for part in module.modules())


def is_scripted(module: nn.Module) -> bool:
    """Return whether it holds scripted code, whose reading of a tensor is not seen."""
    held = [each for part in module.modules() for each in (part, *vars(part).values())]
    return any(isinstance(each, torch.jit.ScriptModule | torch.jit.ScriptFunction) for each in held)
