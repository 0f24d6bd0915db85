"""torchattacks 3.5.1: its class names for our attacks, and its classes for `fa.evaluate`.

    from fastadv.adapters import torchattacks  # the one import that changes

    atk = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10, random_start=True)
    adv_images = atk(images, labels)

Names, arguments and defaults are those of torchattacks; `atk.result` is our `AttackResult` of the last call.
docs/adapters.md says what differs. The package itself is needed only for `wrap`.
"""

import inspect
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastadv import attacks, rng
from fastadv.adapters.foreign import Foreign, one_radius, with_defaults
from fastadv.adapters.meaning import INSTEAD, MEANING
from fastadv.attacks.core.training import moves_all
from fastadv.engine.module import device_of
from fastadv.errors import InputError
from fastadv.models import Normalized
from fastadv.threat import Threat

NEVER = attacks.WrongBy(1e30)  # with which an attack goes on to the strongest point


class Attack:
    """An attack of ours, called as `atk(images, labels)`; see the module for what differs.

    Its arguments are attributes, which may be changed.

    Args:
        args: the model, then arguments as torchattacks orders them.
        kwargs: arguments as torchattacks names them.
    """

    model: nn.Module
    _make: Callable[..., Any]
    _names: tuple[str, ...]  # of its arguments but the model

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = self.__signature__.bind(*args, **kwargs)  # type: ignore[attr-defined]
        bound.apply_defaults()
        vars(self).update(bound.arguments)
        self.result: attacks.AttackResult | None = None
        self.set_mode_default()
        self._normalized: Any = None

    @property
    def ours(self) -> Any:
        return type(self)._make(**{name: getattr(self, name) for name in self._names})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in self._names)})"

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial images like `images`; in a targeted mode `labels` mean what that mode says."""
        if isinstance(self.model, nn.Module):
            images = images.to(device=device_of(self.model))
        if self._normalized is None:
            return self._moved(self.model, images, labels)
        mean, std = (torch.as_tensor(v, device="cpu").to(images).view(-1, 1, 1) for v in self._normalized)
        x = images * std + mean
        near = x.clamp(0, 1)  # the way back to pixels rounds
        x = torch.where((x - near).abs() < 1e-5, near, x)
        return (self._moved(Normalized(self.model, *self._normalized), x, labels) - mean) / std

    def _moved(self, model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        options: dict[str, Any] = {}
        y = labels.to(x.device)
        if self._targets_of is not None:
            options["targets"] = targets = self._targets_of(x, y).to(x.device)
            y = torch.where(y == targets, torch.where(targets == 0, 1, 0), y)  # a label is no target
        run = self.ours
        if "seed" in inspect.signature(run.func).parameters and run.keywords.get("seed") is None:
            options["seed"] = rng.fresh_seed()  # from torch's generator, which governs torchattacks
        before = moves_all.set(moves := "stop_early" in run.keywords)  # as theirs do, right or wrong
        try:
            self.result = result = cast(attacks.AttackResult, run(model, x, y, **options))
            left = (result.status == attacks.Status.ALREADY_WRONG).nonzero().squeeze(1)
            if not (moves and len(left)):
                return result.x_adv
            options |= {"targets": options["targets"][left]} if "targets" in options else {}
            moved = run(model, x[left], y[left], ids=left, criterion=NEVER, **options).x_adv
            return result.x_adv.index_copy(0, left, moved)
        finally:
            moves_all.reset(before)

    def set_mode_default(self) -> None:
        """Look for any wrong class."""
        self._targets_of: Callable[[Tensor, Tensor], Tensor] | None = None

    def set_mode_targeted_by_label(self, quiet: bool = True) -> None:
        """Take the labels of a call as the classes to reach."""
        self._targets_of = lambda images, labels: labels

    def set_mode_targeted_by_function(
        self, target_map_function: Callable[[Tensor, Tensor], Tensor], quiet: bool = True
    ) -> None:
        """Reach the classes int [B] that a function of images and labels gives."""
        self._targets_of = target_map_function

    def set_normalization_used(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take images that were normalized so; the attack itself works in [0, 1]."""
        self._normalized = ([float(v) for v in mean], [float(v) for v in std])

    def set_model_training_mode(self, model_training: bool = False, **parts: bool) -> None:
        """Accept eval mode alone, in which every attack of ours sees the model."""
        if model_training or any(parts.values()):
            raise InputError("model_training: expected False, got True; attacks see the model in eval mode")


def wrap(kind: Callable[..., Any], **options: Any) -> Foreign:
    """Make an attack for `fa.evaluate` and our calls from a class of torchattacks.

    It serves one radius for all samples, and the box (0, 1). `fastadv.adapters.foreign.Foreign` says how its
    points are judged.

    Args:
        kind: such as `torchattacks.PGD`.
        options: arguments of the class besides the model. `eps` and `norm` are the threat's unless given.

    Returns:
        The attack.
    """
    nearest = getattr(kind, "__name__", "") in ("CW", "DeepFool", "EADL1", "EADEN", "JSMA", "SparseFool")
    return Foreign(_craft, kind, options, nearest)


def _craft(
    kind: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, threat: Threat, targets: Tensor | None,
    **options: Any,
) -> Any:  # fmt: skip
    if threat.box != (0.0, 1.0):
        raise InputError(f"threat: expected the box (0, 1), which torchattacks clamps to, got {threat.box}")
    radius, norm = one_radius("torchattacks", threat), {"norm": threat.norm.capitalize()}
    attack = kind(model, **with_defaults(kind, options, norm if radius == inf else norm | {"eps": radius}))
    if targets is None:
        return attack(x, y)
    if "targeted" not in attack.supported_mode:
        raise InputError(f"targets: expected None, which {type(attack).__name__} takes alone, got targets")
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(x, targets)


def _served(name: str, make: Callable[..., Any]) -> type[Attack]:
    """Return the class of that name, whose arguments are the model and those of `make`."""
    arguments = inspect.signature(make).parameters
    model = inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.Signature([model, *arguments.values()])
    about = {"_make": staticmethod(make), "_names": tuple(arguments), "__signature__": signature}
    about |= {"__doc__": make.__doc__ or Attack.__doc__, "__module__": __name__}
    return type(name, (Attack,), about)


SERVED = {name: _served(name, make) for name, make in MEANING.items()}
__all__ = ["INSTEAD", "SERVED", "Attack", "wrap"]


def __getattr__(name: str) -> Any:
    if name in SERVED:
        return SERVED[name]
    if name in INSTEAD:
        raise InputError(f"torchattacks.{name}: expected a class that is served here; {INSTEAD[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
