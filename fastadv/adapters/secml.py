"""SecML-Torch 1.5: its class names for our attacks, and its for `fa.evaluate`.

    from fastadv.adapters.secml import PGD  # the one import that changes

    attack = PGD(perturbation_model="l2", epsilon=0.4, num_steps=100, step_size=0.01)
    adversarial_loader = attack(model, torch_data_loader)

Names, arguments and defaults are those of `secmlt.adv.evasion`; the model is a module of torch or its
`BasePyTorchClassifier`. What differs: every backend means the same attack of ours; the strongest point met is
returned, and it never leaves epsilon, lb or ub; an image that the model gets wrong already is left alone; the
model is seen in eval mode. Attacks for the nearest success (FMN, DDN, CW, DeepFool) return the image itself
where they found nothing. Random draws follow from torch's generator. There are no trackers. The package
itself is needed only for `wrap`.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastadv.adapters._translated import Translated, no_label, seed_for, served, translated
from fastadv.adapters.foreign import Foreign, imported, one_radius
from fastadv.adapters.meaning.secml import INSTEAD, MEANING
from fastadv.attacks import AttackResult
from fastadv.data._batches import device_for
from fastadv.engine import prepare
from fastadv.errors import InputError
from fastadv.threat import Threat

NEAREST = (
    "BoundaryAttack",
    "CW",
    "DDN",
    "DeepFool",
    "FMN",
    "GaussianBlur",
    "HopSkipJump",
    "SaltAndPepperNoise",
)


class Attack(Translated):
    """An attack of ours, called as `attack(model, data_loader)`; see the module for what differs."""

    def __call__(self, model: Any, data_loader: DataLoader[Any], stream: bool = False) -> Any:
        """Return a loader of adversarial samples with their labels; with `stream`, an iterator of batches.

        model: an `nn.Module`, or a `BasePyTorchClassifier`, whose processing counts as part of the model.
        data_loader: of pairs of images, floating [B, ...] in [lb, ub], and labels int [B].
        """
        batches = self._batches(_module(model), data_loader)
        if stream:
            return batches
        found, labels = (torch.cat(each) for each in zip(*batches, strict=True))
        return DataLoader(TensorDataset(found, labels), batch_size=data_loader.batch_size)

    def _batches(self, model: nn.Module, given: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        frozen, run, done = prepare(model, freeze=True), self.ours, 0
        seed, aim = seed_for(run), getattr(self, "y_target", None)
        device = device_for(frozen)
        for samples, labels in given:
            x, y = (each.to(device=device) for each in (samples, labels))
            ids = torch.arange(done, done + len(y), device=y.device)
            done += len(y)
            aims: dict[str, Tensor] = {}
            if aim is not None:
                aims, y = {"targets": torch.full_like(y, aim)}, no_label(torch.full_like(y, aim))
            out: AttackResult = run(frozen, x, y, ids=ids, **aims, **seed)
            yield out.x_adv.to(samples), labels


class _Processed(nn.Module):
    """A network with what their classifier does before and after it."""

    def __init__(self, before: Any, model: nn.Module, after: Any) -> None:
        super().__init__()
        self.before, self.model, self.after = before, model, after
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.after(self.model(self.before(x)))
        return logits


def _module(model: Any) -> nn.Module:
    """Return the network of a classifier, with its processing where it has some."""
    if isinstance(model, nn.Module):
        return model
    inner = getattr(model, "model", None)
    if not isinstance(inner, nn.Module):
        kind = type(model).__name__
        raise InputError(f"model: expected an nn.Module or a BasePyTorchClassifier, got {kind}")
    before, after = (getattr(model, f"_{name}processing", None) for name in ("pre", "post"))
    if all(each is None or type(each).__name__ == "IdentityDataProcessing" for each in (before, after)):
        return inner
    return _Processed(before or nn.Identity(), inner, after or nn.Identity())


def wrap(kind: Callable[..., Any] | str, **options: Any) -> Foreign:
    """Make an attack for `fa.evaluate` and our calls from a class of SecML-Torch.

    It serves one radius for all samples. Targets, of which the class takes one, are served class by class.
    `fastadv.adapters.foreign.Foreign` says how its points are judged.

    Args:
        kind: such as `secmlt.adv.evasion.pgd.PGD`, or "pgd.PGD", which is imported for you. Beside adv_lib
            and a PyTorch without CUDA their own import fails, this one does not.
        options: its arguments, such as `backend="native"`. `perturbation_model`, `epsilon`, `lb` and `ub` are
            the threat's unless given.

    Returns:
        The attack.
    """
    if isinstance(kind, str):
        module, _, name = f"secmlt.adv.evasion.{kind}".rpartition(".")
        return wrap(getattr(imported(module), name), **options)
    return Foreign(_craft, kind, options, getattr(kind, "__name__", "") in NEAREST)


def _craft(
    kind: Callable[..., Any], model: nn.Module, x: Tensor, y: Tensor, threat: Threat, targets: Tensor | None,
    **options: Any,
) -> Any:  # fmt: skip
    """Return its points."""
    takes, radius = inspect.signature(kind).parameters, one_radius("secmlt", threat)
    given: dict[str, Any] = dict(zip(("lb", "ub"), threat.box, strict=True))
    if "perturbation_model" in takes:
        given["perturbation_model"] = threat.norm
    if "epsilon" in takes and radius < inf:
        given["epsilon"] = radius
    classifier = imported("secmlt.models.pytorch.base_pytorch_nn").BasePyTorchClassifier(model)

    def points(x: Tensor, y: Tensor, **aim: int) -> Tensor:
        attack = kind(**{**given, **options, **aim})
        loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
        ((found, _),) = attack(classifier, loader, stream=True)
        return torch.as_tensor(found)

    if targets is None:
        return points(x, y)
    if "y_target" not in takes:
        raise InputError(f"targets: expected None, which {kind.__name__} takes alone, got targets")
    made = x.clone()
    for aim in sorted({*targets.tolist()}):
        rows = targets == aim
        made[rows] = points(x[rows], y[rows], y_target=aim).to(x)
    return made


SERVED = {name: translated(Attack, name, make) for name, make in MEANING.items()}
__all__ = ["INSTEAD", "SERVED", "Attack", "wrap"]


def __getattr__(name: str) -> Any:
    return served(name, __name__, "secmlt.adv.evasion", SERVED, INSTEAD)
