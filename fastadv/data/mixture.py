"""Real and generated images in one training set, by a fixed fraction of every batch."""

import hashlib
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_share
from fastadv._waiting import waits
from fastadv.data.imageset import Held, ImageSet, to_unit
from fastadv.data.npz import NpzSet
from fastadv.errors import InputError

_DENOMINATOR = 10**6  # of the fraction, which is thus 7/10 where the number given is the float next to it


class Mixture(Held):
    """Real and generated images to train on; `fraction` of each batch are generated.

    An epoch is as long as the real set. Among the first T images of a run floor(fraction * T) are generated,
    so that B in a row hold fraction * B of them, rounded down or up. Both kinds come in passes, each in a
    random order: no image comes again before all others of its kind, however many epochs that takes.

    Sample i is a real image below len(real), and generated image i - len(real) from there on. Classes and
    name are those of the real set.

    Args:
        real: the real images.
        generated: the generated images, of the same shape and classes.
        fraction: of generated images in each batch, in (0, 1).

    Source:
        Gowal et al. 2021 (arXiv 2110.09468), section 5; Wang et al. 2023 (arXiv 2302.04638).
    """

    def __init__(self, real: ImageSet | NpzSet, generated: ImageSet | NpzSet, fraction: float) -> None:
        for what, dataset in (("real", real), ("generated", generated)):
            if not isinstance(dataset, ImageSet | NpzSet):
                raise InputError(
                    f"{what}: expected an ImageSet or an NpzSet, got {type(dataset).__name__}; "
                    "image folders become one by in_memory()"
                )
        self.share = Fraction(check_share("fraction", fraction)).limit_denominator(_DENOMINATOR)
        if not 0 < self.share < 1:
            raise InputError(f"fraction: expected a number from 1e-6 to 1 - 1e-6, got {fraction!r}")
        if real.shape != generated.shape:
            raise InputError(
                f"generated: expected images of shape {list(real.shape)}, as the real ones, "
                f"got {list(generated.shape)}; resize them"
            )
        if (most := int(generated.labels.max())) >= real.num_classes:
            raise InputError(
                f"generated: expected labels from 0 to {real.num_classes - 1}, the classes of {real.name}, "
                f"got {most}; map the labels"
            )
        self.real, self.generated = real, generated
        self.box = min(real.box[0], generated.box[0]), max(real.box[1], generated.box[1])
        self.labels = torch.cat([real.labels, generated.labels.to(real.labels.device)])
        self.classes, self.note = real.classes, real.note
        self.name = f"{real.name} with {float(self.share):.4g} {generated.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.real.shape

    @property
    def nbytes(self) -> int:
        return self.real.nbytes + self.generated.nbytes

    @property
    def epoch_size(self) -> int:
        """The number of images in an epoch."""
        return len(self.real)

    @cached_property
    def data_hash(self) -> str:
        """Hash of both sets and the fraction."""
        parts = self.real.data_hash, self.generated.data_hash, str(self.share)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        parts = {"real": self.real.describe(), "generated": self.generated.describe()}
        return super().describe() | parts | {"fraction": float(self.share)}

    def epoch_order(self, seed: int, epoch: int) -> Tensor:
        """Return the sample numbers of an epoch, in their order, int64 [len(real)]."""
        begun = (epoch - 1) * self.epoch_size
        number = torch.arange(begun, begun + self.epoch_size + 1, device="cpu")
        before = number * self.share.numerator // self.share.denominator
        generated = before.diff() > 0
        number, before = number[:-1], before[:-1]
        order = torch.empty_like(number)
        order[generated] = len(self.real) + _pass_by_pass(
            len(self.generated), rng.derive(seed, "generated"), before[generated]
        )
        real = ~generated
        order[real] = _pass_by_pass(len(self.real), rng.derive(seed, "real"), (number - before)[real])
        return order

    def take(self, positions: Tensor) -> Tensor:
        made, begin = positions >= len(self.real), len(self.real)
        if waits(positions.device):  # as masks are read, each set gives all rows
            real = self.real.take(positions.clamp(max=begin - 1))
            generated = self.generated.take((positions - begin).clamp(min=0))
            return torch.where(made.view(-1, *[1] * len(self.shape)), *_alike(generated, real))
        real, generated = self.real.take(positions[~made]), self.generated.take(positions[made] - begin)
        real, generated = _alike(real, generated)
        x = real.new_empty((len(positions), *self.shape))
        x[~made], x[made] = real, generated.to(x.device)
        return x

    def to(self, device: torch.device | str) -> "Mixture":
        return Mixture(self.real.to(device), self.generated.to(device), float(self.share))

    def __repr__(self) -> str:
        return f"Mixture({self.real!r}, {self.generated!r}, fraction={float(self.share):g})"


def _alike(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return (x, other) if x.dtype == other.dtype else (to_unit(x), to_unit(other))


def _pass_by_pass(size: int, seed: int, numbers: Tensor) -> Tensor:
    """Return what stands at `numbers` of the endless sequence of random orders of range(size)."""
    turns, result = numbers // size, torch.empty_like(numbers)
    for turn in sorted(set(turns.tolist())):
        now = turns == turn
        result[now] = rng.permutation(size, seed, turn)[numbers[now] % size]
    return result
