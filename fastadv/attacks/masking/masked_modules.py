"""Which modules hide their gradient: what they return moves otherwise than their gradient says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from math import ceil, inf
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks.core.checks import check_images
from fastadv.engine import Prepared
from fastadv.engine.copy import copied
from fastadv.engine.module import Method, as_module, replaced
from fastadv.engine.precision import no_autocast
from fastadv.errors import InputError

SIZES = (1.0, 0.2, 0.04)  # of moves, in standard deviations of what is moved
POINTS, MANY = 4, 64  # on the way of a move at which gradients are taken, and where these leave a doubt
SHARE = 0.01  # of the inputs, from which on they are worth a look
FEW = 4  # values of the output, whose moves may be chance
AROUND, LEFT = 8, 0.02  # points on the way, and what may be left over, where the module around is asked
EXPLAINED = 0.5  # of a move, from which the gradients on the way are taken to explain it
ALONG = 0.4  # the correlation of changes with what the gradients say of them, from which on these are of use
SWING, NEAR = 1.4, 0.3  # of an output's distance from the input, that of a gradient; its least, of a change
SWINGING = 9  # passes: two of the output, one of a move, three of the gradient, forward and backward
BACK = 0.1  # of the values, where the gradient leads back though the output follows its input
SCRAMBLED = 0.1  # of a gradient, by which another pass on the same input may differ
DRAWS, HALVES = 6, 2  # moves of each size that are compared with the gradients on the way, and points there
LOOK = 5 + len(SIZES) * (1 + 2 * POINTS)  # passes at most of a look at one call of a module without doubt
COMPARISON = 5 + 2 * DRAWS * (1 + 2 * HALVES)  # passes of a look at one whose gradient may mislead

Kind = Literal["cut", "zero", "nan", "wrong"]
DOES = {
    "cut": "cuts the graph",
    "zero": "has a zero gradient",
    "nan": "has a gradient of NaN",
    "wrong": "has a misleading gradient",
}


@dataclass
class Budget:
    """Passes of the whole model that looks at its modules may take, and have taken."""

    limit: float
    forwards: float = 0.0
    backwards: float = 0.0

    @property
    def left(self) -> float:
        return self.limit - self.forwards - self.backwards


@dataclass(frozen=True)
class MaskedModule:
    """A module whose gradient does not show what its input does."""

    name: str
    kind: Kind
    share: float
    advice: str

    def __str__(self) -> str:
        where = repr(self.name) if self.name else "the model's own forward"
        return f"{where} {DOES[self.kind]} at {self.share:.0%} of its inputs: {self.advice}"


def masked_modules(model: nn.Module | Prepared, x: Tensor) -> tuple[MaskedModule, ...]:
    """Return the modules of `model` that hide their gradient at x; empty where none does.

    A few dozen samples are enough. Each call of a module in a pass of x is examined separately, in float64
    where the model computes in that. Values whose gradient is exactly zero, all where the graph is cut, are
    moved at random: the module is masked where they are more than 1% of its input, its output moves, and the
    gradients in between explain at most half of that. A part is not blamed if the gradients of the module
    around it explain how that moves, but for 2%, nor a module around one that `bpda` replaced for values that
    are only in part without a gradient. A module without parts is masked, too, where its output is nearly its
    input but its gradient goes up and down; and so is any whose gradient misleads where that of the whole
    model does, and is not known to replace another. Of a module and its parts, the innermost is returned:
    once `fastadv.models.bpda` mends it, another call may find more. It takes some twenty passes, as many
    again where gradients are zero or mislead, and over a hundred where that leaves a doubt. Neither the model
    nor generators are changed.

    Args:
        model: a module, or a Frozen of one.
        x: floating [B, ...], B >= 1.

    Returns:
        The masked modules in the order of the forward pass, each with its `name` in `model.named_modules()`,
        empty for a step of the model's own forward; the `share` of its inputs; `advice`; and the `kind`:
        "cut" where no graph leads back; "zero" where the gradient is zero although the output jumps; "nan"
        where it is not finite although the output is; "wrong" where it differs from pass to pass, goes up and
        down, or where changes of the output correlate by less than 0.4 with what it says of them.

    Raises:
        InputError: the model is not a module, or the batch is empty.
    """
    module = as_module(model.source if isinstance(model, Prepared) else model)
    if module is None:
        raise InputError(
            f"masked_modules: expected a torch.nn.Module, whose parts have names, got "
            f"{type(model).__name__}; make the function a module"
        )
    x = check_images(x, (0, 1), values=False)
    if not len(x):
        raise InputError("masked_modules: expected at least one sample [B, ...]; give a few tens")
    try:
        return _masked(module, x, Budget(inf), torch.float64)
    except (RuntimeError, InputError):  # code that names a dtype, such as a module that bpda replaced
        return _masked(module, x, Budget(inf))


def masked_within(classifier: Prepared, x: Tensor, passes: float) -> tuple[MaskedModule, ...]:
    """Return `masked_modules` of what the model sees, in at most so many passes a sample, counted as its."""
    module, budget = as_module(classifier.source), Budget(passes)
    try:
        module, x = module or Method(nn.Identity(), classifier.model), x.to(classifier.sees(x.dtype))
        masked = _masked(module, x, budget)
    except Exception:  # modules of others, called where they do not expect it
        return ()
    classifier.forwards += ceil(budget.forwards * len(x))
    classifier.backwards += ceil(budget.backwards * len(x))
    return masked


def stands_in(model: Any) -> bool:
    """Return whether the gradient is that of a stand-in, which is not compared with what a pass gives."""
    return bool(replaced(model)) or getattr(model, "input_threshold", None) is not None


def _masked(
    module: nn.Module, x: Tensor, budget: Budget, dtype: torch.dtype | None = None
) -> tuple[MaskedModule, ...]:
    """Return what is masked in a copy of the module, which computes in `dtype` or as it comes."""
    device = x.device
    with torch.inference_mode(False), torch.no_grad(), rng.generators_kept(device), no_autocast(device.type):
        model = copied(module)
        return _examined(model if dtype is None else model.to(dtype), x.to(dtype or x.dtype), budget)


def _examined(model: nn.Module, x: Tensor, budget: Budget) -> tuple[MaskedModule, ...]:
    """Return what is masked, by looks at the calls of a pass of x, those inside others first."""
    masked: dict[str, MaskedModule] = {}
    outer: list[_Call] = []  # calls around the one that is looked at
    prints: list[list[Any]] = []
    compared = not stands_in(model)

    def find(call: _Call) -> None:
        call.find_moving(prints.pop(0) if prints else [])
        end(call.name)
        if call.moving:
            whole = compared and not call.name
            call.doubted = outer[-1].doubted if outer else whole and call.misleads(len(x))
            outer.append(call)
            if _leaf(call.part):
                look(outer.pop())

    def end(name: str) -> None:
        while outer and not _holds(outer[-1].name, name):
            look(outer.pop())

    def look(call: _Call) -> None:
        if any(name == call.name or _holds(call.name, name) for name in masked):
            return
        swings = call.swings()  # before what takes more passes
        looks = not swings and budget.left >= LOOK * call.share
        kind, share = call.hidden() if looks else (None, 0.0)
        # Some gradients of its own, as of k-winners, may jump to and fro: that adds up to little. That of a
        # stand-in may leave out values that the module it replaces mixes into others.
        all_of_it, mixes = share == 1, kind != "nan" and bool(replaced(call.part))
        if kind and (bool(outer) and outer[-1].explains_itself if all_of_it else mixes):
            return
        if not kind and (swings or (call.doubted and (not call.name or call.misleads(len(x))))):
            kind, share = "wrong", 1.0
        if kind:
            masked[call.name] = MaskedModule(call.name, kind, share, call.advice(kind))

    _watch(model, x.roll(1, 0).flip(-1), budget, lambda call: prints.append([*map(_print, call.values)]))
    _watch(model, x, budget, find)
    end("")
    return tuple(one for name, one in masked.items() if not any(_holds(name, other) for other in masked))


def _watch(model: nn.Module, x: Tensor, budget: Budget, look: "Callable[[_Call], None]") -> None:
    """Call `look` before each call of a module in a pass of x, but for those that it makes itself."""
    looking = False

    def before(name: str, share: float, part: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal looking
        if not looking:
            looking = True
            with torch.no_grad():  # the module around may follow gradients
                look(_Call(name, part, [*args, *kwargs.values()], [*kwargs], budget, share))
            looking = False

    hooks = [
        part.register_forward_pre_hook(
            partial(before, name, _leaves(part) / _leaves(model)), prepend=True, with_kwargs=True
        )
        for name, part in model.named_modules()
        if not isinstance(part, torch.jit.ScriptModule)
    ]
    budget.forwards += 1
    with rng.generators_kept(x.device, seed=0):
        model(x.clone())
    for hook in hooks:
        hook.remove()


@dataclass(eq=False)
class _Call:
    """One call of a module, that can be taken again with other values for the tensors `moving`."""

    name: str
    part: nn.Module
    values: list[Any]  # arguments, those by keyword last
    keywords: list[str]
    budget: Budget
    share: float  # of a pass of the whole model
    moving: list[Tensor] = field(default_factory=list)
    doubted: bool = False  # whether the gradient of the model misleads

    def find_moving(self, others: list[Any]) -> None:
        """Take as `moving` the tensors that are others in a pass of other images, by their prints there."""
        pairs = zip_longest(self.values, others[: len(self.values)])
        self.moving = [*{id(v): v for v, other in pairs if _print(v) not in (None, other)}.values()]
        # All that moves, before anything writes into it: a vector in float64, as are moves and outputs.
        self.origin = torch.cat([_vector([]), *(value.flatten().double() for value in self.moving)])

    @cached_property
    def returned(self) -> list[Tensor]:
        return self.run(self.origin)

    @cached_property
    def base(self) -> Tensor:
        """The output; empty where it is not finite, or differs from call to call: then nothing is known."""
        first, second = _vector(self.returned), _vector(self.run(self.origin))
        return first if bool(first.isfinite().all()) and torch.equal(first, second) else first[:0]

    def parted(self, vector: Tensor) -> tuple[Tensor, ...]:
        return torch.split(vector, [value.numel() for value in self.moving])

    def run(self, point: Tensor) -> list[Tensor]:
        """Return the tensors that the module returns at a point."""
        self.budget.forwards += self.share
        with rng.generators_kept(point.device, seed=0):
            # The module may write into these copies.
            copies = {id(value): value.clone() for value in self.values if isinstance(value, Tensor)}
            for value, part in zip(self.moving, self.parted(point), strict=True):
                copies[id(value)] = part.view_as(value).to(value, copy=True)
            values = [copies.get(id(value), value) for value in self.values]
            count = len(values) - len(self.keywords)
            keywords = dict(zip(self.keywords, values[count:], strict=True))
            return list(_tensors(self.part(*values[:count], **keywords)))

    def change(self, move: Tensor) -> Tensor:
        """Return the change of the output by a move; empty where it is zero or not finite."""
        change = _vector(self.run(self.origin + move)) - self.base
        return change if bool(change.isfinite().all()) and bool(change.any()) else change[:0]

    def gradient(self, point: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Return that of weights @ output, by default random ones; None where no graph leads to the input."""
        leaf = point.detach().requires_grad_()
        try:
            with torch.enable_grad():
                output = _vector(self.run(leaf))
        except RuntimeError:  # a tensor with a graph, given to NumPy
            return None
        weights = _draw(len(output), len(SIZES), output.device) if weights is None else weights
        if not output.requires_grad or len(output) != len(weights):
            return None
        self.budget.backwards += self.share
        try:
            return torch.autograd.grad(output, leaf, weights, allow_unused=True)[0]
        except RuntimeError:  # a backward pass that is not there
            return None

    def hidden(self) -> tuple[Kind | None, float]:
        """Return how the gradient is hidden, if it is, and at which share of what moves."""
        gradient = self.gradient(self.origin)
        if gradient is not None and not bool(gradient.isfinite().all()):
            share = float((~gradient.isfinite()).double().mean())
            return ("nan", share) if bool(_vector(self.returned).isfinite().all()) else (None, 0.0)
        kind: Kind = "cut" if gradient is None else "zero"
        free = torch.ones_like(self.origin) if gradient is None else (gradient == 0).double()
        share = float(free.mean())
        if share < SHARE or not len(self.base):
            return None, 0.0
        least = 64 * torch.finfo(self.moving[0].dtype).eps * float(self.base.abs().amax())
        for number, size in enumerate(SIZES):
            move = free * self.drawn(number, size)
            change = self.change(move)
            if int((change.abs() > least).sum()) > FEW and (kind == "cut" or self.jumps(move, change)):
                return kind, share
        return None, 0.0

    def jumps(self, move: Tensor, change: Tensor) -> bool:
        """Return whether the gradients on the way do not explain the change; few points may miss kinks."""
        part = self.explained(move, change, POINTS)
        if part and part <= EXPLAINED:
            points = int(min(MANY, self.budget.left / (2 * self.share)))
            part = self.explained(move, change, points) if points >= 2 * POINTS else 1.0
        return part <= EXPLAINED

    def misleads(self, samples: int) -> bool:
        """Return whether its gradients differ from pass to pass, or go elsewhere than the output."""
        if self.budget.left < COMPARISON * self.share:
            return False
        first, second = self.gradient(self.origin), self.gradient(self.origin)
        if first is None or second is None or not len(self.base) or not bool(first.any()):
            return False
        if bool((first - second).norm() > SCRAMBLED * first.norm()):
            return True
        alone = len(self.returned) == 1 and all(
            tensor.ndim and len(tensor) % samples == 0 for tensor in (*self.moving, *self.returned)
        )
        return (any if self.name else all)(self.strays(size, samples if alone else 1) for size in SIZES[:2])

    def strays(self, size: float, rows: int) -> bool:
        """Return whether changes by moves of a size hardly correlate with what the gradients say of them."""
        pairs = []
        for draw in range(DRAWS):
            move = self.drawn(len(SIZES) + draw, size, clamped=True)
            change = self.change(move)
            if not len(change):
                return False
            weights = _draw(len(change), 2 * len(SIZES) + draw, change.device)
            integral = self.integral(move, weights, HALVES, rows)
            pairs.append(torch.stack([(weights * change).view(rows, -1).sum(1), integral]))
        change, integral = torch.cat(pairs, 1)
        return float(torch.cosine_similarity(change, integral, dim=0)) < ALONG

    def swings(self) -> bool:
        """Return whether what comes in goes out nearly the same, by gradients that go up and down."""
        if self.budget.left < SWINGING * self.share or not (_leaf(self.part) and len(self.base)):
            return False
        move = self.drawn(0, SIZES[0], clamped=True)
        shapes, given = ([value.shape for value in values] for values in (self.returned, self.moving))
        if shapes != given or not len(change := self.change(move)):
            return False
        same = move * (change @ move) / (move @ move)
        if (rest := (change - same).norm()) > same.norm():
            return False
        gradients = (self.gradient(self.origin + way * move, move) for way in (0.1, 0.4, 0.9))
        first, between, last = (move * 0 if gradient is None else gradient for gradient in gradients)
        if (between * move < 0).double().mean() < BACK:  # a squashing head has gradients of one sign
            return False
        beyond = between - between.clamp(torch.minimum(first, last), torch.maximum(first, last))
        return bool(beyond.norm() > SWING * torch.maximum(rest, NEAR * same.norm()))

    @cached_property
    def explains_itself(self) -> bool:
        """Return whether the gradients on the way of a move of all that is given explain the change."""
        if self.doubted or not len(self.base) or self.budget.left < 2 * (1 + AROUND) * self.share:
            return False
        move = self.drawn(0, SIZES[0])
        change = self.change(move)
        return bool(len(change)) and abs(self.explained(move, change, AROUND) - 1) <= LEFT

    def drawn(self, number: int, size: float, clamped: bool = False) -> Tensor:
        move = size * self.spread_over(_spread) * _draw(len(self.origin), number, self.origin.device)
        if not clamped:
            return move
        # A module may refuse values outside the range.
        low, high = self.spread_over(Tensor.amin), self.spread_over(Tensor.amax)
        return (self.origin + move).clamp(low, high) - self.origin

    def spread_over(self, measure: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a measure of each tensor that moves, at each of its values."""
        return torch.cat([measure(part).expand(len(part)) for part in self.parted(self.origin)])

    def explained(self, move: Tensor, change: Tensor, points: int) -> float:
        """Return the part of a change, from 0 to about 1, that the gradients on the way there add up to."""
        return float(self.integral(move, change, points)) / float(change.square().sum())

    def integral(self, move: Tensor, weights: Tensor, points: int, rows: int = 1) -> Tensor:
        """Return [rows], by how much weights @ output changes on a move, as the gradients on the way say."""
        total = torch.zeros(rows, dtype=move.dtype, device=move.device)
        for point in range(points):
            gradient = self.gradient(self.origin + (point + 0.5) / points * move, weights)
            if gradient is not None:
                product = (gradient * move).nan_to_num() / points
                total += sum(part.view(rows, -1).sum(1) for part in self.parted(product))
        return total

    def advice(self, kind: Kind) -> str:
        first, output = self.moving[0], self.returned[0]
        replace = "give fa.models.bpda(model, {{{}: {}}})".format
        keeps = output.shape == first.shape
        inside = _leaf(self.part) or (keeps and kind == "cut" and self.follows())
        if not (self.name and inside):  # what a module does with its parts is cut with them
            return f"put that step of its forward into a module, and {replace('its name', '...')}"
        if len(self.returned) > 1 or not output.is_floating_point():
            return f"wrap it in a module that returns one floating tensor, and {replace('its name', '...')}"
        if keeps and (kind in ("zero", "nan") or self.follows()):
            better = "; if no_grad or detach cuts it, leave that out instead, which leads further"
            return replace(repr(self.name), "'identity'") + better * (kind == "cut")
        shapes = f"from {list(first.shape)} to {list(output.shape)}"
        return f"{replace(repr(self.name), 'net')}, with a differentiable net {shapes} that behaves like it"

    def follows(self) -> bool:
        """Return whether the output goes where the input does."""
        move = self.drawn(0, SIZES[0], clamped=True)  # beyond, bytes begin anew
        change = self.change(move)
        return bool(len(change)) and float(torch.cosine_similarity(move[: len(change)], change, dim=0)) > 0.1


def _holds(name: str, other: str) -> bool:
    return other != name and (not name or other.startswith(f"{name}."))


def _leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _leaves(module: nn.Module) -> int:
    """Return how many modules in it hold no other."""
    return sum(map(_leaf, module.modules()))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _print(value: Any) -> tuple[float, float] | None:
    """Return numbers that differ where two tensors do; None for what cannot be moved."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return None
    flat = value.detach().reshape(-1).double()
    weights = torch.arange(len(flat), dtype=flat.dtype, device=flat.device).sin()
    return (float(flat.sum()), float(flat @ weights)) if bool(flat.isfinite().all()) else None


def _vector(tensors: list[Tensor]) -> Tensor:
    """Return the floating tensors, or all where there are none, as one vector in float64."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    flat = [tensor.reshape(-1).double() for tensor in floating or tensors]
    return torch.cat(flat) if flat else torch.empty(0, dtype=torch.float64, device="cpu")


def _draw(count: int, number: int, device: torch.device) -> Tensor:
    seed = rng.derive(0, "masked modules", number)
    return 2 * rng.uniform(count, seed, torch.zeros(1, dtype=torch.int64, device=device))[0].double() - 1


def _spread(value: Tensor) -> Tensor:
    """Return the standard deviation of all values; their size where they are equal."""
    spread = value.std() if value.numel() > 1 else value.new_zeros(())
    size = value.abs().amax()
    return torch.where(spread > 0, spread, torch.where(size > 0, size, 1.0))
