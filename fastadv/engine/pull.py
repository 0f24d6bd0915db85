"""Gradients at x, from gradients at the logits."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastadv._torch import run_backward
from fastadv.engine.arguments import checked_directions
from fastadv.errors import NoGradientError

# target size of logit gradients in float16: room to grow 1e3x and shrink 1e7x on the way back
LARGEST = 64.0


def pull(
    attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False, whole: bool = False
) -> Tensor:
    """Return the gradient at `leaf` of by_logits @ attached; for reentrant checkpoints with `whole`."""
    gradient = None
    # not `torch.autograd.grad`: a `TorchFunctionMode` sees that function instead of what it calls, and what a
    # checkpoint computes again has to be rewritten as before
    if attached.requires_grad and whole:
        leaf.grad = None
        run_backward((attached,), (by_logits,), retain_graph, ())
        gradient, leaf.grad = leaf.grad, None
    elif attached.requires_grad:
        (gradient,) = run_backward((attached,), (by_logits,), retain_graph, (leaf,))
    if gradient is None:
        raise NoGradientError(
            "model: expected logits that depend on x differentiably, got a model that cuts the graph; "
            "remove its no_grad, detach or integer step, or use an attack without gradients"
        )
    return gradient


def pull_scaled(attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool) -> Tensor:
    """Return the same in float32 for a graph in float16, each row of which has a scale of its own."""
    largest = by_logits.abs().amax(1).nan_to_num(0.0, 0.0)
    exponent = torch.frexp(largest).exponent.clamp(-121, 128)  # beyond -121 the factor leaves float32
    factor = torch.ldexp(torch.full_like(largest, LARGEST), -exponent)  # a power of two rounds nothing
    gradient = pull(attached, leaf, by_logits * factor[:, None], retain_graph)
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return wide / factor.view(-1, *[1] * (leaf.ndim - 1))


def pull_each(
    x: Tensor, logits: Tensor, directions: Tensor | Callable[[Tensor], Tensor],
    reduce: Callable[[Tensor], Tensor] | None, back: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the directions [B, C, K], their gradients by `back`, each reduced, and the first as it is."""
    chosen = checked_directions(directions(logits) if callable(directions) else directions, logits)
    gradients = x.new_empty(len(x), chosen.shape[1], *(x.shape[1:] if reduce is None else ()))
    first: Tensor | None = None
    for place, by_logits in enumerate(chosen.unbind(1)):
        gradient = back(by_logits).to(x.dtype)
        if first is None:
            first = gradient.clone()  # `reduce` may write into it
        gradients[:, place] = gradient if reduce is None else reduce(gradient)
    return chosen, gradients, torch.zeros_like(x) if first is None else first
