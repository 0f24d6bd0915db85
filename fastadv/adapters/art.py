"""ART 1.20, the Adversarial Robustness Toolbox: its evasion attacks for `fa.evaluate` and our calls."""

import inspect
from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.adapters.foreign import Foreign, imported, one_radius, with_defaults
from fastadv.errors import InputError
from fastadv.threat import Threat

__all__ = ["wrap"]
NEAREST = (
    "BoundaryAttack", "CarliniL0Method", "CarliniL2Method", "CarliniLInfMethod", "DeepFool", "ElasticNet",
    "GeoDA", "HopSkipJump", "NewtonFool", "SaliencyMapMethod", "SignOPTAttack", "ZooAttack",
)  # fmt: skip


def wrap(kind: Callable[..., Any], **options: Any) -> Foreign:
    """Make an attack for `fa.evaluate` and our calls from a class of `art.attacks.evasion`.

    It serves one radius for all samples. `fastadv.adapters.foreign.Foreign` says how its points are judged.

    Args:
        kind: such as `ProjectedGradientDescent`.
        options: arguments of the class besides the classifier, which is made from the model, with the box of
            the threat as clip values. `eps` and `norm` are the threat's unless given.

    Returns:
        The attack.
    """
    return Foreign(_craft, kind, options, kind.__name__ in NEAREST)


def _craft(
    kind: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, threat: Threat, targets: Tensor | None,
    **options: Any,
) -> Any:  # fmt: skip
    radius = one_radius("ART", threat)
    with torch.no_grad():
        classes = model.model(x[:1].to(model.sees)).shape[1]  # type: ignore[operator, arg-type]
    classifier = imported("art.estimators.classification").PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes, clip_values=threat.box,
        device_type="gpu" if x.device.type == "cuda" else "cpu",
    )  # fmt: skip
    usual = {"norm": threat.order, "verbose": False, "batch_size": len(x)}
    options = with_defaults(kind, options, usual if radius == inf else usual | {"eps": radius})
    if targets is not None:
        if "targeted" not in inspect.signature(kind).parameters:
            raise InputError(f"targets: expected None, which {kind.__name__} takes alone, got targets")
        options["targeted"] = True
    elif kind.__name__ == "BoundaryAttack":  # targeted by default
        options = {"targeted": False, **options}
    labels = (y if targets is None else targets).cpu().numpy()
    points = kind(classifier, **options).generate(x.cpu().numpy(), labels)
    return torch.as_tensor(points, device=x.device)
