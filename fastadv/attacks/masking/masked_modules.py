"""Which modules hide their gradient: a finite difference of each beside its backward pass."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks.core.checks import check_images
from fastadv.engine import Prepared
from fastadv.engine.copy import copied
from fastadv.engine.module import as_module, replaced
from fastadv.engine.precision import no_autocast
from fastadv.errors import InputError

SIZES, DRAWS = (1.0, 0.2, 0.04), 4  # of moves, in deviations of what comes in; moves that are compared
MANY, SOME = 16, 2  # gradients on a way: to explain a change, and to lead anywhere
EXPLAINED, ALIKE = 0.5, 0.4  # the part of a change, and a correlation, below which gradients do not
LEAST = 0.01  # of what comes in, without a gradient, that is worth a look
DOES = {"cut": "cuts the graph", "zero": "has a zero gradient", "nan": "has a gradient of NaN"}


@dataclass(frozen=True)
class MaskedModule:
    """A module whose gradient does not show what its input does."""

    name: str
    kind: str
    share: float
    advice: str

    def __str__(self) -> str:
        does = DOES.get(self.kind, "has a misleading gradient")
        return f"{self.name!r} {does} at {self.share:.0%} of its inputs: {self.advice}"


def masked_modules(model: nn.Module | Prepared, x: Tensor) -> tuple[MaskedModule, ...]:
    """Return the modules without parts that hide their gradient at x, a few dozen samples.

    Each is called again at moved inputs. Nothing is changed.

    Args:
        model: a module, or a Frozen of one.
        x: floating [B, ...], B >= 1.

    Returns:
        The masked modules, each with its `name` in `model.named_modules()`, the `share` of its inputs,
        `advice`, and the `kind`: "cut" where no graph leads back; "zero" where the gradient is zero although
        the output jumps; "nan" where it is not finite; "wrong" where it leads elsewhere than the output.

    Raises:
        InputError: the model is not a module, or the batch is empty.
    """
    module = as_module(model.source if isinstance(model, Prepared) else model)
    if module is None or not len(x := check_images(x, (0, 1), values=False)):
        raise InputError("masked_modules: expected a torch.nn.Module, whose parts have names, and samples")
    device, masked = x.device, dict[str, MaskedModule]()

    def look(name: str, part: nn.Module, args: Any) -> None:
        h = args[0] if args else None
        if name in masked or not isinstance(h, Tensor) or not h.is_floating_point() or h.ndim < 2:
            return
        call = _Call(part, h.clone(), args[1:])
        kind, share = call.hidden()
        if kind:
            like = "'identity'" if call.base.shape == h.shape else "net"
            advice = f"give fa.models.bpda(model, {{{name!r}: {like}}})"
            advice += "; if no_grad or detach cuts it, leave that out instead" * (kind == "cut")
            masked[name] = MaskedModule(name, kind, share, advice)

    with torch.inference_mode(False), torch.no_grad(), rng.generators_kept(device), no_autocast(device.type):
        copy, mended = copied(module), tuple(f"{name}." for name in replaced(module))
        for name, part in copy.named_modules():
            leaf = next(part.children(), None) is None and not isinstance(part, torch.jit.ScriptModule)
            if leaf and not f"{name}.".startswith(mended):
                part.register_forward_pre_hook(partial(look, name), prepend=True)
        copy(x.clone())
    return tuple(masked.values())


class _Call:
    """A call of a module, that can be taken again with another first argument."""

    def __init__(self, part: nn.Module, h: Tensor, args: Any) -> None:
        self.part, self.h, self.args = part, h, args
        self.base = self.run(h)

    def run(self, point: Tensor) -> Tensor:
        with rng.generators_kept(point.device, seed=0):
            out = self.part.forward(point.clone(), *self.args)
        first: Tensor = out if isinstance(out, Tensor) else out[0]
        return first.to(self.h)

    def gradient(self, point: Tensor, weights: Tensor) -> Tensor | None:
        """Return that of weights * output; None where no graph leads to the input."""
        leaf = point.clone().requires_grad_()
        try:
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(self.run(leaf), leaf, weights, allow_unused=True)
        except RuntimeError:  # a graph given to NumPy, or a backward pass that is not there
            return None
        found: Tensor | None = gradient
        return found

    def said(self, move: Tensor, weights: Tensor, points: int) -> Tensor:
        """Return [B], how weights * output changes on a move, as the gradients on the way say."""
        way = [self.gradient(self.h + (k + 0.5) / points * move, weights) for k in range(points)]
        mean = sum(0 * move if one is None else one.nan_to_num() for one in way) / points
        return (mean * move).flatten(1).sum(1)

    def drawn(self, like: Tensor, draw: int) -> Tensor:
        row = torch.zeros(1, dtype=torch.int64, device=like.device)
        chance = rng.uniform(like.numel(), rng.derive(0, "masked modules", draw), row)
        return (2 * chance - 1).view_as(like).to(self.h)

    def moved(self, size: float, draw: int = 0) -> Tensor:
        """Return a move within the range of what comes in: a module may refuse to leave it."""
        move = size * self.h.std() * self.drawn(self.h, draw)
        return (self.h + move).clamp(*self.h.aminmax()) - self.h

    def hidden(self) -> tuple[str, float]:
        """Return how the gradient is hidden, "" where it is not, and at which share of what comes in."""
        base, weights = self.base, self.drawn(self.base, 0)
        if not bool(base.isfinite().all()) or not torch.equal(base, self.run(self.h)):
            return "", 0.0
        first, again = (self.gradient(self.h, weights) for _ in range(2))
        if first is not None and not bool(first.isfinite().all()):
            return "nan", float((~first.isfinite()).double().mean())
        if first is not None and again is not None and not torch.equal(first, again):
            return "wrong", 1.0
        free = torch.ones_like(self.h) if first is None else (first == 0).to(self.h)
        for size in SIZES if (share := float(free.mean())) > LEAST else ():
            move = free * self.moved(size)
            change = self.run(self.h + move) - base
            whole = float(change.square().sum())
            if 1e-12 < whole < torch.inf and float(self.said(move, change, MANY).sum()) <= EXPLAINED * whole:
                return "cut" if first is None else "zero", share
        return ("wrong", 1.0) if first is not None and self.misleads() else ("", 0.0)

    def misleads(self) -> bool:
        """Return whether changes of the output hardly correlate with what the gradients say of them."""
        pairs = []
        for draw in range(DRAWS):
            move, weights = self.moved(SIZES[0], draw), self.drawn(self.base, draw)
            change = (weights * (self.run(self.h + move) - self.base)).flatten(1).sum(1)
            if len(change) == len(move):
                pairs.append(torch.stack([change, self.said(move, weights, SOME)]))
        both = torch.cat(pairs, 1) if pairs else torch.zeros(2, 1, device=self.h.device)
        return bool(both[0].any()) and float(torch.cosine_similarity(both[0], both[1], dim=0)) < ALIKE
