"""Optimizers by name or by the caller's function, over groups of parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fastadv import rng
from fastadv._checks import check_number
from fastadv.errors import InputError
from fastadv.runs.checkpoint import check_keeps

Groups = list[dict[str, Any]]
MakeOptimizer = Callable[[Groups], Optimizer]
"""A function of groups of parameters, such as functools.partial(torch.optim.RMSprop, lr=0.01)."""

LEARNING_RATES = {"sgd": 0.05, "nesterov": 0.05, "adam": 1e-3, "adamw": 1e-3}
# their parameters are scales and shifts, also where they have two dimensions or more
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def find_rate(optimizer: str | MakeOptimizer, learning_rate: float | None) -> float | None:
    """Return the learning rate, by default that of the name; None leaves it to the caller's function."""
    if not callable(optimizer) and optimizer not in LEARNING_RATES:
        raise InputError(
            f"optimizer: expected one of {', '.join(LEARNING_RATES)}, or a function that makes one of groups "
            f"of parameters, got {optimizer!r}"
        )
    rate = learning_rate if callable(optimizer) or learning_rate is not None else LEARNING_RATES[optimizer]
    if rate is None:
        return None
    if check_number("learning_rate", rate) <= 0:
        raise InputError(f"learning_rate: expected a number > 0, got {learning_rate!r}")
    return float(rate)


def make(
    model: nn.Module,
    optimizer: str | MakeOptimizer,
    learning_rate: float | None,
    *,
    momentum: float,
    weight_decay: float,
    norm_decay: bool = True,
    kept: bool = False,
) -> Optimizer:
    """Make the optimizer of the parameters that require a gradient; a function is tried on copies first."""
    groups = _groups(model, norm_decay)
    if callable(optimizer):
        if learning_rate is not None:
            groups = [{**group, "lr": learning_rate} for group in groups]
        _try(optimizer, groups, kept)
        return optimizer(groups)
    return _named(optimizer, groups, momentum, lr=learning_rate, weight_decay=weight_decay)


def _named(name: str, groups: Groups, momentum: float, **common: Any) -> Optimizer:
    if name in ("adam", "adamw"):
        kind = Adam if name == "adam" else AdamW
        return kind(groups, betas=(momentum, 0.999), **common)
    if name == "nesterov" and momentum == 0:
        raise InputError("momentum: expected a number > 0 for 'nesterov', got 0; take 'sgd'")
    return SGD(groups, momentum=momentum, nesterov=name == "nesterov", **common)


def _groups(model: nn.Module, norm_decay: bool) -> Groups:
    """Group the parameters that require a gradient by whether they decay; InputError if there are none."""
    found: dict[bool, list[nn.Parameter]] = {}
    scales = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    for weight in model.parameters():
        if weight.requires_grad:
            decays = norm_decay or not (weight.ndim < 2 or id(weight) in scales)
            found.setdefault(decays, []).append(weight)
    if not found:
        raise InputError(
            "model: expected parameters that require a gradient, got none; call model.requires_grad_(True)"
        )
    return [
        {"params": weights} | ({} if decays else {"weight_decay": 0.0}) for decays, weights in found.items()
    ]


def _try(optimizer: MakeOptimizer, groups: Groups, kept: bool) -> None:
    """Raise InputError unless this makes an optimizer that `fit` can use; on copies, with zero gradients."""
    with torch.inference_mode(False), torch.enable_grad():
        copies = [
            {**group, "params": [nn.Parameter(each.detach().clone()) for each in group["params"]]}
            for group in groups
        ]
        weights = [weight for group in copies for weight in group["params"]]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        with rng.generators_kept(weights[0].device):
            made = optimizer([dict(group) for group in copies])
            if not isinstance(made, Optimizer):
                raise InputError(
                    "optimizer: expected a function that returns a torch.optim.Optimizer, got one that "
                    f"returns a {type(made).__name__}"
                )
            if [*map(id, weights)] != [id(each) for group in made.param_groups for each in group["params"]]:
                raise InputError(
                    "optimizer: expected one over the groups of parameters that the function is given, got "
                    "others; make it inside the function, of its argument"
                )
            try:
                made.step()
            except TypeError as error:
                raise InputError(
                    f"optimizer: expected one whose step() takes no closure, got {type(made).__name__} "
                    f"({error}); train with it in a loop of your own"
                ) from error
    if kept:
        check_keeps(made)


def bound(weights: Sequence[Tensor], most: float) -> None:
    """Shorten the weights into each unit (a row along the first dimension) to an L2 norm of `most`."""
    with torch.no_grad():
        for weight in weights:
            weight.renorm_(2, 0, most)
