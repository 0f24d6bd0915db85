"""foolbox 3.3.4: its class names for our attacks, and its attacks for `fa.evaluate`.

    from fastadv.adapters import foolbox as fb  # the one import that changes

    fmodel = fb.PyTorchModel(model, bounds=(0, 1))
    raw, clipped, success = fb.attacks.LinfPGD()(fmodel, images, labels, epsilons=[0.01, 0.03])

Names, arguments and defaults of attacks are foolbox'; all else, such as `PyTorchModel`, is its own and needs
the package. Inputs are tensors of torch, or eagerpy's, and results are like them. No point of an attack with
a budget leaves the radius, so that `raw` and `clipped` are the same; of an attack for the nearest success
`clipped` holds x where the success is farther than epsilon. docs/adapters.md says what else differs.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import getclosurevars, isfunction
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.adapters._translated import Translated, no_label, refuse, seed_for, translated
from fastadv.adapters.foreign import Foreign, imported, one_radius
from fastadv.adapters.meaning.foolbox import ALIASES, INSTEAD, MEANING, MINIMUM
from fastadv.attacks import AttackResult
from fastadv.errors import InputError
from fastadv.threat import Threat

Epsilons = float | None | Iterable[float | None]


class Attack(Translated):
    """An attack of ours, called as `attack(fmodel, inputs, criterion, epsilons=...)`; see the module."""

    restarts = 1

    def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Epsilons) -> Any:
        """Return (raw, clipped, success), with one of each for each epsilon of a sequence or array.

        model: a `foolbox.PyTorchModel`. criterion: labels int [B], `Misclassification` or
        `TargetedMisclassification`. epsilons: None is for attacks for the nearest success.
        """
        several = isinstance(epsilons, Iterable)
        given: list[Any] = list(epsilons) if isinstance(epsilons, Iterable) else [epsilons]
        wanted = [None if each is None else float(each) for each in given]
        x, like = _raw(inputs), type(inputs) if hasattr(inputs, "raw") else _same
        nearest = type(self).__name__ in MINIMUM
        if not nearest and None in wanted:
            raise InputError("epsilons: expected numbers for an attack with a budget, got None")
        with _in_eval_mode(model):
            results = [self._run(model, x, criterion, each) for each in (wanted[:1] if nearest else wanted)]
        raw = [result.x_adv for result in results] * (len(wanted) if nearest else 1)
        clipped, success = list(raw), [result.success for result in results]
        if nearest:
            near = [results[0].distance <= (inf if each is None else each) for each in wanted]
            success = [results[0].success & within for within in near]
            shape = -1, *[1] * (x.ndim - 1)
            clipped = [torch.where(one.view(shape), raw[0], x) for one in near]
        if several:
            return [*map(like, raw)], [*map(like, clipped)], like(torch.stack(success))
        return like(raw[0]), like(clipped[0]), like(success[0])

    def repeat(self, times: int) -> "Attack":
        """Return the attack with so many restarts, the best of which counts."""
        made = type(self)(**{name: getattr(self, name) for name in self._own})
        made.restarts = self.restarts * times
        return made

    def _run(self, model: Any, x: Tensor, criterion: Any, radius: float | None) -> AttackResult:
        run = self.ours(radius)
        threat = run.keywords["threat"]
        given: dict[str, Any] = {"threat": type(threat)(threat.radius, box=tuple(model.bounds))}
        given |= seed_for(run)
        if self.restarts > 1:
            given["restarts"] = self.restarts
        y = getattr(criterion, "labels", criterion)
        if hasattr(criterion, "target_classes"):
            given["targets"] = targets = _raw(criterion.target_classes)
            y = no_label(targets)
        result: AttackResult = run(lambda points: model(points), x, _raw(y), **given)
        return result


def _raw(values: Any) -> Tensor:
    """Return the tensor, also of what eagerpy holds."""
    raw: Tensor = getattr(values, "raw", values)
    return raw


def _same(values: Tensor) -> Tensor:
    return values


@contextmanager
def _in_eval_mode(model: Any) -> Iterator[None]:
    """Set the network in eval mode inside. Their models hold it in a closure, and call it in its own mode."""
    inner = model
    while inner is not None and not isinstance(inner, nn.Module):
        inner = (
            getclosurevars(inner).nonlocals.get("model") if isfunction(inner) else vars(inner).get("_model")
        )
    parts = [] if inner is None else list(inner.modules())
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def wrap(kind: Any, **options: Any) -> Foreign:
    """Make an attack for `fa.evaluate` and our calls from an attack of foolbox.

    It serves one radius for all samples. `fastadv.adapters.foreign.Foreign` says how its points are judged.

    Args:
        kind: a class such as `foolbox.attacks.LinfPGD`, or an instance of one. The threat gives epsilon and
            bounds; with an infinite radius the attack looks for the nearest success.
        options: arguments of the class.

    Returns:
        The attack.
    """
    base = imported("foolbox.attacks.base").MinimizationAttack
    nearest = issubclass(kind, base) if isinstance(kind, type) else isinstance(kind, base)
    return Foreign(_craft, kind, options, nearest)


def _craft(
    kind: Any, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, targets: Tensor | None, **options: Any
) -> Any:
    """Return its points; of an attack for the nearest success as it found them, whatever the radius."""
    foolbox = imported("foolbox")
    attack = kind(**options) if isinstance(kind, type) else kind
    radius = one_radius("foolbox", threat)
    wrapped = foolbox.PyTorchModel(model, bounds=threat.box, device=x.device)
    criteria = foolbox.criteria
    criterion = (
        criteria.Misclassification(y) if targets is None else criteria.TargetedMisclassification(targets)
    )
    return attack(wrapped, x, criterion, epsilons=None if radius == inf else radius)[radius < inf]


SERVED = {name: translated(Attack, name, make) for name, make in MEANING.items()}
SERVED |= {name: SERVED[of] for name, of in ALIASES.items()}
__all__ = ["INSTEAD", "SERVED", "Attack", "wrap"]


def __getattr__(name: str) -> Any:
    if name == "attacks":
        return sys.modules[__name__]
    if name in SERVED:
        return SERVED[name]
    refuse("foolbox.attacks", name, INSTEAD)
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(imported("foolbox"), name)
