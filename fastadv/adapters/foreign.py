"""An attack of another package, called as ours are: its points are judged, its passes counted."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from fastadv import _extras, rng
from fastadv.attacks import AttackResult, core
from fastadv.engine.arguments import checked_logits
from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.threat.checks import check_threat

SLACK = 1e-6  # in input units, by which a point may leave ball and box: the packages round to float32


class Watched(nn.Module):
    """A model in eval mode, as another package sees it; passes are counted, logits in float32 or wider."""

    def __init__(self, model: Callable[[Tensor], Tensor], like: Tensor, sees: torch.dtype) -> None:
        super().__init__()
        self.model, self.sees = model, sees
        # packages ask the first parameter for the device
        self.place = nn.Parameter(like.new_zeros(()), requires_grad=False)
        self.forwards = self.backwards = 0
        self.training = False

    def train(self, mode: bool = True) -> "Watched":
        """Leave the mode as it is, whatever is asked."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        # some packages hand over float64
        logits = checked_logits(self.model(x.to(self.place).to(self.sees)), len(x))
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@dataclass(frozen=True)
class Foreign:
    """An attack of another package behind our signature.

    Its points are judged as ours are, by the model as given. A point that is not finite, or that leaves ball
    or box by more than SLACK, is refused, and its sample counts as held or failed. A point that leaves them
    by rounding is projected. `forwards` and `backwards` count the samples that passed the model. The
    generators of torch, NumPy and Python, from which other packages draw, are seeded for the call and
    restored.
    """

    make: Callable[..., Any]  # (kind, model in eval mode, x, y, threat, targets, **options) -> points like x
    kind: Callable[..., Any]  # the class or function of the other package
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of `kind`
    minimum: bool = False  # whether it looks for the success nearest to x

    @property
    def __name__(self) -> str:
        return getattr(self.kind, "__name__", type(self.kind).__name__)

    def __call__(
        self, model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 0,
        **common: Unpack[core.Common],
    ) -> AttackResult:  # fmt: skip
        """Attack x [B, ...] with labels y [B]; see `fastadv.attacks.core.Common` for the other arguments."""
        check_threat(threat)

        def rule(search: core.Search[Any]) -> None:
            watched = Watched(search.classifier.model, search.x, search.classifier.sees(search.x.dtype))
            seeded = rng.derive(seed, f"foreign {self.__name__}", int(search.ids[0]))
            kept = rng.generators_kept(search.x.device, seeded)
            x, y = search.x.clone(), search.y.clone()
            # whose gradients the backward passes of some packages would write
            weights = [weight for weight in watched.parameters() if weight.requires_grad]
            try:
                for weight in weights:
                    weight.requires_grad_(False)
                with kept, torch.enable_grad():
                    points = self.make(self.kind, watched, x, y, threat, search.targets, **self.options)
            finally:
                for weight in weights:
                    weight.requires_grad_(True)
            search.classifier.forwards += watched.forwards
            search.classifier.backwards += watched.backwards
            if not isinstance(points, Tensor) or points.shape != search.x.shape:
                got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
                raise InputError(f"{self.__name__}: expected points {tuple(search.x.shape)}, got {got}")
            points = points.detach().to(search.x)
            nearest = search.threat.project(points.nan_to_num(), search.x)
            close = (points - nearest).abs().flatten(1).amax(1) <= SLACK
            inside = search.threat.contains(points, search.x)
            column = (close & ~inside).view(-1, *[1] * (points.ndim - 1))
            search.finish(torch.where(column, nearest, points))

        return core.run(model, x, y, threat, rule, minimum=self.minimum, seed=seed, **common)


def one_radius(package: str, threat: Threat) -> float:
    """Return the radius. Raises InputError where each sample has its own, which the package cannot serve."""
    if isinstance(threat.radius, Tensor) and threat.radius.ndim:
        raise InputError(f"threat: expected one radius for all samples, as {package} takes, got [B]")
    return float(threat.radius)


def with_defaults(
    kind: Callable[..., Any], options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return options with those defaults that are arguments of `kind`."""
    taken = inspect.signature(kind).parameters
    return {**{name: value for name, value in defaults.items() if name in taken}, **options}


def imported(module: str) -> Any:
    """Return a module of another package; MissingExtraError where that is missing."""
    _extras.need(module.partition(".")[0])
    if find_spec("torchvision") is not None:  # others may import it, which fails beside a CPU-only torch
        import_module("fastadv._torchvision")
    return import_module(module)
