"""ART 1.20, the Adversarial Robustness Toolbox: its class names for our attacks, and its for `fa.evaluate`.

    from fastadv.adapters.art import ProjectedGradientDescent  # the one import that changes

    attack = ProjectedGradientDescent(estimator=classifier, eps=0.1, eps_step=0.02, max_iter=10)
    x_adv = attack.generate(x=x_test, y=y_test)

Names, arguments and defaults are those of `art.attacks.evasion`; the classifier is ART's `PyTorchClassifier`
with `clip_values`, without defenses. docs/adapters.md says what differs. Only `wrap` needs the package.
"""

import inspect
from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastadv.adapters._translated import Translated, no_label, seed_for, served, translated
from fastadv.adapters.foreign import Foreign, imported, one_radius
from fastadv.adapters.meaning.art import INSTEAD, MEANING
from fastadv.attacks import AttackResult
from fastadv.attacks.core.common import planned
from fastadv.engine import prepare
from fastadv.errors import InputError
from fastadv.models import Normalized
from fastadv.threat import Threat

NEAREST = (
    "BoundaryAttack", "CarliniL0Method", "CarliniL2Method", "CarliniLInfMethod", "DeepFool", "ElasticNet",
    "GeoDA", "HopSkipJump", "NewtonFool", "SaliencyMapMethod", "SignOPTAttack", "ZooAttack",
)  # fmt: skip


class Attack(Translated):
    """An attack of ours, called as `attack.generate(x, y)`; see the module for what differs."""

    def generate(self, x: Any, y: Any = None, **options: Any) -> Any:
        """Return adversarial samples like x, a NumPy array [N, ...].

        y: labels int [N] or one-hot [N, K]; None takes what the model says. In a targeted attack they are the
        classes to reach.
        """
        if options:
            raise InputError(f"generate: expected x and y, got {', '.join(options)}; leave it out")
        classifier = vars(self)[self.first[0]]
        model, box, device = _model(classifier), _box(classifier), classifier.device
        given = torch.as_tensor(np.asarray(x, dtype=np.float32), device=device)
        run = self.ours
        frozen = prepare(model, work=planned(run) * len(given))
        parts: list[Tensor] = []
        threat = type(run.keywords["threat"])(run.keywords["threat"].radius, box=box)
        seed = seed_for(run)
        classes = None if y is None else torch.as_tensor(np.asarray(y), device=device)
        if classes is not None and classes.ndim == 2:
            classes = classes.argmax(1) if classes.shape[1] > 1 else classes[:, 0]
        targeted = getattr(self, "targeted", False)
        if targeted and classes is None:
            raise InputError("y: expected the classes to reach for a targeted attack, got None")
        for ids in torch.split(torch.arange(len(given), device=device), self._size):
            part = given[ids]
            label = frozen.verdict(part).argmax(1) if classes is None else classes[ids].long()
            aims: dict[str, Tensor] = {}
            if targeted:
                aims, label = {"targets": label}, no_label(label)
            out: AttackResult = run(frozen, part, label, threat=threat, ids=ids, **aims, **seed)
            parts.append(out.x_adv.cpu())
        return torch.cat(parts).numpy()

    def set_params(self, **given: Any) -> None:
        """Change arguments. Raises InputError for one that there is not."""
        if unknown := given.keys() - {*self._own}:
            raise InputError(f"set_params: expected {', '.join(self._own)}, got {', '.join(unknown)}")
        vars(self).update(given)

    @property
    def _size(self) -> int:
        # theirs is for memory alone, and often 1
        return max(int(getattr(self, "batch_size", 256)), 256)


def _model(classifier: Any) -> nn.Module:
    """Return the network with the normalization of the classifier. Raises InputError for defenses."""
    for name in ("preprocessing_defences", "postprocessing_defences"):
        if getattr(classifier, name, None):
            raise InputError(f"{name}: expected none, got some; put them into the model")
    steps = getattr(classifier, "preprocessing_operations", None) or []
    model: nn.Module = classifier.model
    for step in reversed(steps):  # the outermost comes first
        if not (hasattr(step, "mean") and hasattr(step, "std")):
            raise InputError("preprocessing: expected a mean and a deviation; put the rest into the model")
        mean, std = (np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in (step.mean, step.std))
        if (mean != 0).any() or (std != 1).any():
            size = max(mean.size, std.size)
            values = (np.broadcast_to(value.ravel(), (size,)).tolist() for value in (mean, std))
            model = Normalized(model, *values)
    return model


def _box(classifier: Any) -> tuple[float, float]:
    values = classifier.clip_values
    if values is None or any(np.unique(np.asarray(end)).size > 1 for end in values):
        raise InputError("clip_values: expected a smallest and a largest value of all pixels, got none")
    low, high = (float(np.asarray(end).flat[0]) for end in values)
    return low, high


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
    takes, radius = inspect.signature(kind).parameters, one_radius("ART", threat)
    with torch.no_grad():
        classes = model.model(x[:1].to(model.sees)).shape[1]  # type: ignore[operator, arg-type]
    classifier = imported("art.estimators.classification").PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes, clip_values=threat.box,
        device_type="gpu" if x.device.type == "cuda" else "cpu",
    )  # fmt: skip
    if "eps" in takes and radius < inf:
        options = {"eps": radius, **options}
    if "norm" in takes:
        options = {"norm": threat.order, **options}
    if "verbose" in takes:
        options = {"verbose": False, **options}
    if "batch_size" in takes:
        options = {"batch_size": len(x), **options}
    if targets is not None:
        if "targeted" not in takes:
            raise InputError(f"targets: expected None, which {kind.__name__} takes alone, got targets")
        options = {**options, "targeted": True}
    elif kind.__name__ == "BoundaryAttack":  # it is targeted unless told otherwise
        options = {"targeted": False, **options}
    labels = (y if targets is None else targets).cpu().numpy()
    points = kind(classifier, **options).generate(x.cpu().numpy(), labels)
    return torch.as_tensor(points, device=x.device)


SERVED = {name: translated(Attack, name, make, first) for name, (first, make) in MEANING.items()}
__all__ = ["INSTEAD", "SERVED", "Attack", "wrap"]


def __getattr__(name: str) -> Any:
    return served(name, __name__, "art.attacks.evasion", SERVED, INSTEAD)
