"""Which modules hide their gradient: what they return moves otherwise than their gradient says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks.core.problem import check_images
from fastadv.engine import Prepared
from fastadv.engine.copying.copier import eval_copy
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
SCRAMBLED = 0.1  # of a gradient, by which another pass on the same input may differ
DRAWS, HALVES = 6, 2  # moves of each size that are compared with the gradients on the way, and points there
PASSES = 4 + len(SIZES) * (1 + 2 * POINTS)  # at most, for a look at one call of a module without doubt

Kind = Literal["cut", "zero", "nan", "wrong"]


@dataclass(frozen=True)
class MaskedModule:
    """A module whose gradient does not show what its input does."""

    name: str
    kind: Kind
    share: float
    advice: str

    def __str__(self) -> str:
        what = {
            "cut": "cuts the graph",
            "zero": "has a zero gradient",
            "nan": "has a gradient of NaN",
            "wrong": "has a misleading gradient",
        }
        where = repr(self.name) if self.name else "the model's own forward"
        return f"{where} {what[self.kind]} at {self.share:.0%} of its inputs: {self.advice}"


def masked_modules(model: nn.Module | Prepared, x: Tensor) -> tuple[MaskedModule, ...]:
    """Return the modules of `model` that hide their gradient at x; empty where none does.

    A few dozen samples are enough. Each call of a module in a pass of x is examined separately, in float64
    where the model computes in that. Values of its input whose gradient is exactly zero, all of them where
    the graph is cut, are moved at random, by 1 to 0.04 standard deviations. The module is masked where they
    are more than 1% of its input, its output moves, and the gradients in between, added up, explain at most
    half of that: it jumps. Not blamed is a part of a module whose gradients explain how that moves, but for
    2%. A gradient that is not zero is examined for the model as a whole, unless it is known to replace
    another, as that of `bpda`: where two passes on the same input differ in it, or where, on moves of 1 and
    of 0.2 standard deviations, the gradients added up correlate by less than 0.4 with the changes of the
    output, the modules in which that is so are masked, too. Of a module and its parts, the innermost is
    returned: once `fastadv.models.bpda` mends it, another call may find more.

    It passes x some twenty times, and what each module is given about twenty times more where gradients are
    zero or mislead, and over a hundred times where that leaves a doubt. Neither the model nor the random
    generators are changed.

    Args:
        model: a module, or a Frozen of one.
        x: floating [B, ...], B >= 1.

    Returns:
        The masked modules in the order of the forward pass, each with its `name` in `model.named_modules()`,
        empty for a step of the model's own forward; the `share` of its inputs; `advice`; and the `kind`,
        "cut" where no graph leads back, as after detach, no_grad, NumPy or argmax, "zero" where the gradient
        is zero although the output jumps, "nan" where it is not finite although the output is, and "wrong"
        where it leads elsewhere than the output goes, or elsewhere in each pass.

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
        return _looked(module, x, torch.float64, inf)[0]
    except RuntimeError:  # code that names a dtype
        return _looked(module, x, None, inf)[0]


def masked_within(classifier: Prepared, x: Tensor, passes: float) -> tuple[MaskedModule, ...]:
    """Return `masked_modules` of what the model sees, in at most so many passes a sample, counted as its."""
    module = as_module(classifier.source)
    try:
        module, x = module or Method(nn.Identity(), classifier.model), x.to(classifier.sees(x.dtype))
        found, *spent = _looked(module, x, None, passes)
    except Exception:  # modules of others, called where they do not expect it
        return ()
    classifier.forwards += ceil(spent[0] * len(x))
    classifier.backwards += ceil(spent[1] * len(x))
    return found


def _looked(
    module: nn.Module, x: Tensor, dtype: torch.dtype | None, passes: float
) -> tuple[tuple[MaskedModule, ...], float, float]:
    """Return what is masked, computed in `dtype` or as it comes, and the passes forward and backward."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        rng.generators_kept(x.device),
        no_autocast(x.device.type),
    ):
        copied = eval_copy(module, follow=False)
        return _look(copied if dtype is None else copied.to(dtype), x.to(dtype or x.dtype), passes)


def _look(model: nn.Module, x: Tensor, passes: float) -> tuple[tuple[MaskedModule, ...], float, float]:
    found: dict[str, MaskedModule] = {}
    spent = [2.0, 0.0]
    around: list[tuple[str, float, _Call]] = []  # the calls that are under way, with their shares
    prints: list[list[Any]] = []  # of the arguments of each call, in a pass of other images
    names = {part: name for name, part in model.named_modules()}
    astray: set[str] = set()  # modules whose gradient misleads
    # a gradient that is known to be another's is not compared
    known = bool(replaced(model)) or getattr(model, "input_threshold", None) is not None

    def count(share: float, call: _Call) -> None:
        spent[0] += share * call.forwards
        spent[1] += share * call.backwards
        call.forwards = call.backwards = 0

    def explained(share: float, outer: _Call) -> bool:
        told = passes - sum(spent) >= 2 * (1 + AROUND) * share and outer.follows
        count(share, outer)
        return told

    def note(part: nn.Module, args: Any, kwargs: Any) -> None:
        prints.append([_fingerprint(each) for each in (*args, *kwargs.values())])

    def examine(part: nn.Module, args: Any, kwargs: Any) -> None:
        given = (*args, *kwargs.values())
        others = prints.pop(0) if prints else []
        others += [None] * (len(given) - len(others))
        moving = [
            each
            for each, other in zip(given, others, strict=False)
            if (own := _fingerprint(each)) is not None and own != other
        ]
        share = _parts(part) / _parts(model)
        if moving and names[part] not in found and sum(spent) + PASSES * share <= passes:
            while around and not _holds(around[-1][0], names[part]):
                around.pop()
            call = _Call(part, args, kwargs, moving, (passes - sum(spent)) / share)
            masked = call.masked(names[part])
            doubt = around[-1][0] in astray if around else part is model and not known
            partly = masked is None or masked.share < 1
            if doubt and partly and call.misleads(len(x), every=part is model):
                astray.add(names[part])
                masked = masked or call.told(names[part], "wrong", 1.0)
            count(share, call)
            # what has some gradient of its own may jump to and fro, as k-winners: that adds up to little
            if masked is not None and not (masked.share == 1 and around and explained(*around[-1][1:])):
                found[names[part]] = masked
            around.append((names[part], share, call))

    _watch(model, x.roll(1, 0).flip(-1), note)
    _watch(model, x, examine)
    inner = [name for name in found if not any(_holds(name, other) for other in found)]
    return tuple(found[name] for name in names.values() if name in inner), spent[0], spent[1]


def _parts(module: nn.Module) -> int:
    """Return how many modules in it hold no other."""
    return sum(next(each.children(), None) is None for each in module.modules())


def _watch(model: nn.Module, x: Tensor, look: Callable[[nn.Module, Any, Any], None]) -> None:
    """Call `look` before each module in a pass of x, but for those that it calls itself."""
    looks = False

    def before(part: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal looks
        if not looks:
            looks = True
            try:
                look(part, args, kwargs)
            finally:
                looks = False

    hooks = [
        part.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        for part in model.modules()
        if not isinstance(part, torch.jit.ScriptModule)
    ]
    with rng.generators_kept(x.device, seed=0):
        model(x.clone())
    for hook in hooks:
        hook.remove()


def _holds(name: str, other: str) -> bool:
    return other != name and (not name or other.startswith(f"{name}."))


def _fingerprint(value: Any) -> tuple[float, float] | None:
    """Return numbers that differ where two tensors do; None for what cannot be moved."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return None
    flat = value.detach().reshape(-1).double()
    weights = torch.arange(len(flat), dtype=flat.dtype, device=flat.device).sin()
    return (float(flat.sum()), float(flat @ weights)) if bool(flat.isfinite().all()) else None


class _Call:
    """One call of a module, that can be taken again with other values for the tensors `moving`."""

    def __init__(self, part: nn.Module, args: Any, kwargs: Any, moving: list[Tensor], passes: float) -> None:
        self.part, self.args, self.kwargs, self.passes = part, args, kwargs, passes
        self.forwards = self.backwards = 0
        self.along = True  # whether the output goes where the input does, by the last move
        self.moving = list({id(each): each for each in moving}.values())
        self.given = [each.detach().clone() for each in self.moving]

    def __call__(self, values: list[Tensor], graph: bool = False) -> Tensor:
        """Return all that the module returns as one vector in float64."""
        others = [each for each in (*self.args, *self.kwargs.values()) if isinstance(each, Tensor)]
        self.forwards += 1
        with torch.set_grad_enabled(graph), rng.generators_kept(self.given[0].device, seed=0):
            # copies, into which the module may write
            own = {id(each): each.clone() for each in others}
            own |= {id(each): value.clone() for each, value in zip(self.moving, values, strict=True)}
            made = self.part(
                *(own.get(id(each), each) for each in self.args),
                **{key: own.get(id(each), each) for key, each in self.kwargs.items()},
            )
            tensors = list(_tensors(made))
            floating = [each for each in tensors if each.is_floating_point()]
            self.returned = tensors
            flat = [each.reshape(-1).double() for each in floating or tensors]
            return torch.cat(flat) if flat else torch.empty(0, device="cpu")

    def masked(self, name: str) -> MaskedModule | None:
        """Return what is wrong with its gradient, if anything is."""
        gradients = self._gradients(self.given)
        if gradients is None:
            return self._jumps(name, "cut", [torch.ones_like(each) for each in self.given])
        total = sum(each.numel() for each in gradients)
        wrong = sum(int((~each.isfinite()).sum()) for each in gradients)
        if wrong:
            whole = bool(self(self.given).isfinite().all())
            return self.told(name, "nan", wrong / total) if whole else None
        return self._jumps(name, "zero", [(each == 0).to(each.dtype) for each in gradients])

    def _jumps(self, name: str, kind: Kind, free: list[Tensor]) -> MaskedModule | None:
        """Return it where the output moves without a gradient, if the inputs that are `free` do."""
        share = float(sum(each.sum() for each in free)) / sum(each.numel() for each in free)
        if share < SHARE:
            return None
        base = self(self.given)
        if not base.numel() or not bool(base.isfinite().all()) or not torch.equal(self(self.given), base):
            return None  # of what differs from call to call nothing is known
        least = 64 * torch.finfo(self.given[0].dtype).eps * float(base.abs().amax())
        for number, size in enumerate(SIZES):
            move = [by * at for by, at in zip(self._drawn(number, size), free, strict=True)]
            change = self(self._moved(move, 1.0)) - base
            if not bool(change.isfinite().all()) or int((change.abs() > least).sum()) <= FEW:
                continue
            if kind == "cut" or self._jumped(move, change):
                self.along = kind != "cut" or _along(move, change)
                return self.told(name, kind, share)
        return None

    def misleads(self, samples: int, every: bool) -> bool:
        """Return whether its gradients differ from pass to pass, or go elsewhere than the output."""
        if self.forwards + self.backwards + 5 + 2 * DRAWS * (1 + 2 * HALVES) > self.passes:
            return False
        base, pair = self(self.given), [self._gradients(self.given) for _ in range(2)]
        if None in pair or not bool(base.isfinite().all()) or not torch.equal(self(self.given), base):
            return False  # of what differs from call to call nothing is known
        first, second = (torch.cat([each.flatten().double() for each in one]) for one in pair if one)
        if bool((first - second).norm() > SCRAMBLED * first.norm()):
            return True
        alone = len(self.returned) == 1 and all(
            each.ndim and len(each) % samples == 0 for each in (*self.given, *self.returned)
        )
        rows = samples if alone else 1
        return (all if every else any)(self._apart(base, size, rows) for size in SIZES[:2])

    def _apart(self, base: Tensor, size: float, rows: int) -> bool:
        """Return whether changes by moves of a size hardly correlate with what the gradients say of them."""
        changes, sums = [], []
        for draw in range(DRAWS):
            move = [  # inside the range of the values, outside which the module may refuse them
                (value + by).clamp(value.min(), value.max()) - value
                for value, by in zip(self.given, self._drawn(len(SIZES) + draw, size), strict=True)
            ]
            change = self(self._moved(move, 1.0)) - base
            weights = _draw(len(change), 2 * len(SIZES) + draw, change.device)
            changes.append((weights * change).view(rows, -1).sum(1))
            sums.append(self._added(move, weights, HALVES, rows))
            self.along = _along(move, change)
        change, total = torch.cat(changes), torch.cat(sums)
        if not bool(change.isfinite().all()) or not bool(change.any()):
            return False
        return float(torch.cosine_similarity(change, total, dim=0)) < ALONG

    @cached_property
    def follows(self) -> bool:
        """Whether the gradients on the way of a move of all that is given explain the change."""
        move = self._drawn(0, SIZES[0])
        change = self(self._moved(move, 1.0)) - self(self.given)
        if not bool(change.isfinite().all()) or not bool(change.any()):
            return False
        return abs(self._explained(move, change, AROUND) - 1) <= LEFT

    def _drawn(self, number: int, size: float) -> list[Tensor]:
        return [
            size * _spread(value) * _draw(value.numel(), number, value.device).view_as(value).to(value)
            for value in self.given
        ]

    def _jumped(self, move: list[Tensor], change: Tensor) -> bool:
        """Return whether the gradients on the way do not explain the change; few points may miss kinks."""
        part = self._explained(move, change, POINTS)
        if part == 0 or part > EXPLAINED:
            return part == 0
        enough = self.forwards + self.backwards + 2 * MANY <= self.passes
        return enough and self._explained(move, change, MANY) <= EXPLAINED

    def _explained(self, move: list[Tensor], change: Tensor, points: int) -> float:
        """Return the part of a change, from 0 to about 1, that the gradients on the way there add up to."""
        return float(self._added(move, change, points)) / float(change.square().sum())

    def _added(self, move: list[Tensor], weights: Tensor, points: int, rows: int = 1) -> Tensor:
        """Return [rows], by how much weights @ output changes on a move, as the gradients on the way say."""
        total = torch.zeros(rows, dtype=weights.dtype, device=weights.device)
        for point in range(points):
            gradients = self._gradients(self._moved(move, (point + 0.5) / points), weights) or []
            for one, by in zip(gradients, move, strict=bool(gradients)):
                total += (one * by).nan_to_num().double().reshape(rows, -1).sum(1) / points
        return total

    def _moved(self, move: list[Tensor], part: float) -> list[Tensor]:
        return [value + part * by for value, by in zip(self.given, move, strict=True)]

    def _gradients(self, values: list[Tensor], weights: Tensor | None = None) -> list[Tensor] | None:
        """Return those of weights @ output, by default random ones; None where no graph leads there."""
        leaves = [each.detach().requires_grad_() for each in values]
        try:
            made = self(leaves, graph=True)
        except RuntimeError:  # a tensor with a graph, given to NumPy
            return None
        if weights is None:
            weights = _draw(len(made), len(SIZES), made.device)
        if not made.requires_grad or len(made) != len(weights):
            return None
        self.backwards += 1
        try:
            found = torch.autograd.grad(made, leaves, weights.to(made), allow_unused=True)
        except RuntimeError:  # a backward pass that is not there
            return None
        if all(each is None for each in found):
            return None
        return [
            torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)
        ]

    def told(self, name: str, kind: Kind, share: float) -> MaskedModule:
        """Return it as a module that hides its gradient at a share of its inputs."""
        first, made = self.moving[0], self.returned
        alone = len(made) == 1 and made[0].is_floating_point()
        call = "give fa.models.bpda(model, {{{}: {}}})"
        if not name or next(self.part.children(), None) is not None:
            do = f"put that step of its forward into a module, and {call.format('its name', '...')}"
        elif alone and made[0].shape == first.shape and self.along:
            do = call.format(repr(name), "'identity'")
        elif alone:
            do = (
                f"{call.format(repr(name), 'net')}, with a differentiable net from "
                f"{list(first.shape)} to {list(made[0].shape)} that behaves like it"
            )
        else:
            do = f"wrap it in a module that returns one floating tensor, and {call.format('its name', '...')}"
        return MaskedModule(name, kind, share, do)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def _draw(count: int, number: int, device: torch.device) -> Tensor:
    seed = rng.derive(0, "masked modules", number)
    return 2 * rng.uniform(count, seed, torch.zeros(1, dtype=torch.int64, device=device))[0].double() - 1


def _spread(value: Tensor) -> float:
    """Return the standard deviation of all values; their size where they are equal."""
    spread = float(value.double().std()) if value.numel() > 1 else 0.0
    return spread or float(value.abs().amax()) or 1.0


def _along(move: list[Tensor], change: Tensor) -> bool:
    """Return whether the output goes where the input does, as far as their sizes can be compared."""
    moved = move[0].reshape(-1).double()
    return len(moved) == len(change) and float(torch.cosine_similarity(moved, change, dim=0)) > 0.1
