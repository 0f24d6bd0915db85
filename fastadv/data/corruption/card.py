"""A corruption by its card: what it does, and its constants for each size of images and severity."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_choice
from fastadv.errors import InputError

SEVERITIES = (1, 2, 3, 4, 5)
TABLES = ("cifar", "tiny", "imagenet")
SMALL = 64  # pixels of the shorter side, from which on constants are those of ImageNet


@dataclass(frozen=True)
class Draws:
    """The random numbers of a corruption: a sample's depend on the seed, its number and the draw alone."""

    seed: int
    ids: Tensor

    def normal(self, *shape: int, draw: int = 0) -> Tensor:
        """Return standard normal numbers, float32 [B, *shape]."""
        return self._rows(rng.normal, shape, draw)

    def uniform(self, *shape: int, draw: int = 0) -> Tensor:
        """Return numbers in [0, 1), float32 [B, *shape]."""
        return self._rows(rng.uniform, shape, draw)

    def _rows(self, kind: Callable[..., Tensor], shape: Sequence[int], draw: int) -> Tensor:
        return kind(math.prod(shape), self.seed, self.ids, draw).reshape(len(self.ids), *shape)


Apply = Callable[[Tensor, Any, Draws], Tensor]
"""Images float32 [B, C, H, W] in [0, 1] on 256 levels, with C = 1 or 3, the constants of a severity, and
random numbers, to corrupted images; values beyond [0, 1] are cut off behind it."""


@dataclass(frozen=True)
class Corruption:
    name: str
    apply: Apply
    constants: dict[str, Sequence[Any]]  # by table, for each severity
    extra: bool  # one of the four that are no part of the fifteen

    def of(self, table: str, severity: int) -> Any:
        return self.constants[table][severity - 1]


CORRUPTIONS: dict[str, Corruption] = {}


def corruption(
    cifar: Sequence[Any], tiny: Sequence[Any], imagenet: Sequence[Any], *, extra: bool = False
) -> Callable[[Apply], Apply]:
    """Register a function under its name, with its constants for each severity from 1 to 5, by table."""

    def registered(apply: Apply) -> Apply:
        constants = dict(zip(TABLES, (cifar, tiny, imagenet), strict=True))
        CORRUPTIONS[apply.__name__] = Corruption(apply.__name__, apply, constants, extra)
        return apply

    return registered


def named(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return names of corruptions, each once; "c15" and "all" stand for theirs."""
    sets = {"c15": [name for name, one in CORRUPTIONS.items() if not one.extra], "all": [*CORRUPTIONS]}
    listed = [names] if isinstance(names, str) or not isinstance(names, Iterable) else names
    each = [name for one in listed for name in sets.get(one, [one])]
    chosen = tuple(check_choice("corruption", name, CORRUPTIONS, ", c15, all") for name in each)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"corruptions: expected names, each once, got {list(chosen)}")
    return chosen


def levels(x: Tensor) -> Tensor:
    """Return images in [0, 1] as uint8, cut off as NumPy does, in place; not what rounding alone took."""
    return x.mul_(255).add_(1 / 4096).clamp_(0, 255).to(torch.uint8)


def check_severity(severity: Any) -> int:
    if severity not in SEVERITIES or isinstance(severity, bool):
        raise InputError(f"severity: expected 1, 2, 3, 4 or 5, got {severity!r}")
    return int(severity)


def check_severities(severities: Any) -> tuple[int, ...]:
    levels = tuple(map(check_severity, severities if isinstance(severities, Iterable) else [severities]))
    if not levels or len({*levels}) < len(levels):
        raise InputError(f"severities: expected some of 1, 2, 3, 4, 5, each once, got {[*levels]}")
    return levels


def check_constants(constants: str | None) -> str | None:
    return None if constants is None else check_choice("constants", constants, TABLES)


def constants_for(x: Tensor) -> str:
    """Return the constants of images [B, C, H, W] where none are asked for."""
    return "cifar" if min(x.shape[2:]) < SMALL else "imagenet"
