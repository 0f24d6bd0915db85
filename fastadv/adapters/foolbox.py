"""foolbox 3.3.4: its attacks for `fa.evaluate` and our calls."""

from math import inf
from typing import Any

from torch import Tensor, nn

from fastadv.adapters.foreign import Foreign, imported, one_radius
from fastadv.threat import Threat

__all__ = ["wrap"]


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
