"""The least and the greatest value of each feature that an adversary can reach."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks import Criterion, Status
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.threat import Threat

FLAT = 1e-4  # a feature that is linear in x is so to this share of its terms


class Chosen(nn.Module):
    """Some columns of a representation, at least two, as a model that attacks can read."""

    columns: Tensor

    def __init__(self, representation: nn.Module, columns: Tensor) -> None:
        super().__init__()
        self.representation = representation
        # an engine serves models of two outputs or more
        self.register_buffer("columns", columns if len(columns) > 1 else columns.repeat(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.representation(x)
        return values[:, self.columns]


class Never(Criterion):
    """Nothing is a success: an attack goes on to the strongest point it can find."""

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


def downwards(features: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    return -features.gather(1, y[:, None]).squeeze(1)


def upwards(features: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    return -downwards(features, y, targets)


class Attacked:
    """Extremes by an attack on every feature of every sample, once downwards and once upwards.

    A class reads them with its own sign, so that their number does not depend on the number of classes.
    """

    def __init__(
        self, frozen: Prepared, columns: Tensor, width: int, threat: Threat, attack: Any, batch_size: int
    ) -> None:
        _check_attack(attack)
        self.frozen, self.columns, self.width = frozen, columns, width
        self.threat, self.attack, self.batch_size = threat, attack, batch_size
        self.failed = 0

    def __call__(self, x: Tensor, ids: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return (least, greatest) for samples x [n, ...] with features `clean`, all float64 [n, F]."""
        least, greatest = clean.clone(), clean.clone()
        for sample, feature in _pairs(clean, self.batch_size):
            # a pair draws the same random start, whichever features are asked for
            keys = ids[sample] * self.width + self.columns[feature]
            down, up = (self._reached(x[sample], feature, keys, loss) for loss in (downwards, upwards))
            # x itself is in the ball, too
            least[sample, feature] = least[sample, feature].minimum(down)
            greatest[sample, feature] = greatest[sample, feature].maximum(up)
        return least, greatest

    def _reached(self, x: Tensor, feature: Tensor, ids: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        out = self.attack(self.frozen, x, feature, threat=self.threat, loss=loss, criterion=Never(), ids=ids)
        self.failed += int((out.status == Status.FAILED).sum())
        return self.frozen.verdict(out.x_adv).double().gather(1, feature[:, None]).squeeze(1)


class Exact:
    """Extremes of features that are linear in x, in closed form."""

    failed = 0

    def __init__(self, frozen: Prepared, x: Tensor, features: int, threat: Threat, batch_size: int) -> None:
        self.frozen, self.threat, self.batch_size = frozen, threat, batch_size
        outputs = frozen.verdict(x[:1]).shape[1]
        rows = torch.eye(outputs, device=x.device, dtype=frozen.dtype or x.dtype)[:features]
        self.weight = frozen.jacobian(x[:1].to(rows.dtype), rows[None])[1][0].double()
        # of the model as given: what searches may have other values
        self.offset = frozen.verdict(x[:1])[0, :features].double() - self._products(x[:1])[0]

    def __call__(self, x: Tensor, ids: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return as `Attacked`. InputError where a feature is not linear at x or at its mirror image."""
        for point in (x, -x):
            expected = self._products(point) + self.offset
            size = self._products(point.abs(), self.weight.abs()) + self.offset.abs()
            got = self.frozen.verdict(point).double()[:, : len(self.weight)]
            if bool(((got - expected).abs() > FLAT * size).any()):
                raise InputError(
                    "attack: expected an attack of fastadv.attacks for features that are not linear in x, "
                    "got None; for example partial(fa.attacks.pgd, steps=20)"
                )
        down, up = torch.empty_like(clean), torch.empty_like(clean)
        for sample, feature in _pairs(clean, self.batch_size):
            weight, points = self.weight[feature], x[sample].double()
            down[sample, feature] = self.threat.support(-weight, points)
            up[sample, feature] = self.threat.support(weight, points)
        return clean - down, clean + up

    def _products(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        weight = self.weight if weight is None else weight
        return x.double().flatten(1) @ weight.flatten(1).T


def _pairs(values: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (row, column) of all elements of values [n, F], so many at once."""
    for part in torch.split(torch.arange(values.numel(), device=values.device), batch_size):
        yield part // values.shape[1], part % values.shape[1]


def _check_attack(attack: Any) -> None:
    try:
        takes = inspect.signature(attack).parameters
    except (TypeError, ValueError):
        takes = {}  # type: ignore[assignment]
    if not {"loss", "criterion", "ids"} <= set(takes):
        raise InputError(
            "attack: expected an attack that takes loss, criterion and ids, as fa.attacks.pgd, apgd, bim, "
            f"mim and fgsm do, got {attack!r}; for example partial(fa.attacks.pgd, steps=20)"
        )
