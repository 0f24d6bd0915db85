"""Corrupted images: of a data set, as they are read, and of a batch, as an augmentation."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_choice, check_seed
from fastadv.data.content import describe_data
from fastadv.data.corruption.card import (
    CORRUPTIONS,
    SEVERITIES,
    Draws,
    check_constants,
    check_severities,
    check_severity,
    constants_for,
    levels,
    named,
)
from fastadv.data.given import Data, as_dataset
from fastadv.data.imageset import Images, check_images, check_positions, to_unit
from fastadv.data.sampling import known_labels, sample_count
from fastadv.engine.precision import no_autocast
from fastadv.errors import InputError
from fastadv.hashes import data_hash
from fastadv.ops._rows import check_column
from fastadv.text import several

LEAST = 32  # pixels of a side


def corrupt(
    x: Tensor, name: str, severity: int, seed: int, ids: Tensor, constants: str | None = None
) -> Tensor:
    """Return images [B, C, H, W], uint8 or float32 in [0, 1], corrupted: uint8 of the same shape.

    Floats are rounded to the 256 levels that the corruptions are made for.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < LEAST:
        raise InputError(
            f"{name}: expected gray or RGB images [B, 1 or 3, H, W] of {LEAST} x {LEAST} pixels or more, "
            f"got {list(x.shape)}; load them in another size, as with fa.data.load(..., size={LEAST})"
        )
    whole = x if x.dtype == torch.uint8 else (x * 255).round_()
    draws = Draws(rng.derive(seed, f"corruption {name}", severity), ids)
    one = CORRUPTIONS[name]
    with torch.no_grad(), no_autocast(x.device.type):
        y = one.apply(whole.float().div_(255), one.of(constants or constants_for(x), severity), draws)
    return levels(y)


class Corrupted(Images):
    """Another set's images, corrupted as they are read; item i is (float32 [C, H, W] in [0, 1], label).

    Args:
        others: as in `corrupted`.
    """

    hash_is_whole = True  # data_hash tells it from every other set

    def __init__(
        self, dataset: Data, corruption: str, severity: int, seed: int = 0, constants: str | None = None
    ) -> None:
        check_choice("corruption", corruption, CORRUPTIONS)
        self.source = as_dataset(dataset)
        self.corruption, self.severity, self.seed = corruption, check_severity(severity), check_seed(seed)
        self.constants = check_constants(constants)
        self.rows = torch.arange(sample_count(self.source), device="cpu")
        self.labels = self._labels()
        count = max(0, int(self.labels.max())) + 1
        self.classes = tuple(getattr(self.source, "classes", None) or map(str, range(count)))
        self.name = f"{getattr(self.source, 'name', 'images')}, {corruption} {self.severity}"
        self.note = f"regenerated {corruption} of severity {self.severity}, seed {seed}"
        self.note += f", constants {constants}" if constants else ""
        if note := getattr(self.source, "note", ""):
            self.note = f"{note}; {self.note}"
        self.fixed_order = getattr(self.source, "fixed_order", False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self[0][0].shape)

    @property
    def data_hash(self) -> str:
        """Hash of the source, of how it is corrupted, and of the numbers of its images."""
        how = [self.corruption, self.severity, self.seed, self.constants]
        return data_hash(how, describe_data(self.source), self.rows)

    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Return some of the images, corrupted as they are here."""
        index = check_positions(positions, len(self), self.name).cpu()
        if not len(index):
            raise InputError(f"{self.name}: expected at least one position, got none")
        part = copy(self)
        part.rows, part.labels = self.rows[index], self.labels[index.to(self.labels.device)]
        return part

    def apply(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return images [B, C, H, W] of the source, and their numbers there [B], corrupted: uint8."""
        return corrupt(x, self.corruption, self.severity, self.seed, rows, self.constants)

    def _labels(self) -> Tensor:
        if (labels := known_labels(self.source)) is not None:
            return labels
        try:
            with rng.generators_kept(rng.CPU):  # a transform of the source may draw
                return torch.tensor([int(self.source[row][1]) for row in self.rows.tolist()], device="cpu")
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(
                f"dataset: expected pairs (image, class), got other items ({error}); pick the two with "
                "fa.data.pairs(dataset, image=..., label=...)"
            ) from error

    def __getitem__(self, position: int) -> tuple[Tensor, Any]:
        place = range(len(self))[position]
        image = self.source[int(self.rows[place])][0]
        if not isinstance(image, Tensor):
            raise InputError(
                f"{self.name}: expected the image as a tensor, got {type(image).__name__}; convert it, "
                "or let fa.data.pairs do it"
            )
        check_images(x := image[None], self.name)
        return to_unit(self.apply(x, self.rows[place, None].to(x.device))[0]), int(self.labels[place])

    def __repr__(self) -> str:
        return f"Corrupted({self.name!r}, {several(len(self), 'image')}, seed {self.seed})"


def corrupted(
    dataset: Data, corruption: str, severity: int = 3, seed: int = 0, *, constants: str | None = None
) -> Corrupted:
    """Corrupt the images of a data set, as common corruptions do: noise, blur, weather, digital losses.

    Images are corrupted in batches as they are read, on the device that they are on. What is drawn depends
    on the seed, the sample's number, the corruption and the severity: not on the batch.

    The scripts that made the published sets are followed where later packages leave them. The elastic
    transform begins with an affine map, and on ImageNet's table it has constants of 244 pixels. Glass blur
    copies pixels, which is what the scripts' swap does in NumPy. Pixelate enlarges by PIL's boxes, motion
    blur is rounded and keeps its light at the edges, and frost draws five of its six photographs.

    Args:
        dataset: as `fa.evaluate` takes it: gray or RGB images of 32 x 32 pixels or more, uint8 or float32 in
            [0, 1]; floats are rounded to the 256 levels of a byte, as are the corrupted images.
        corruption: "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur",
            "motion_blur", "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform",
            "pixelate", "jpeg_compression"; "speckle_noise", "gaussian_blur", "spatter", "saturate".
        severity: from 1 to 5.
        seed: of what is drawn.
        constants: "cifar", "tiny" or "imagenet", of the published sets; None takes CIFAR's for images whose
            shorter side is below 64, and ImageNet's for others.

    Returns:
        A set of images and labels.

    Raises:
        InputError: an argument is none of these, or the images are smaller or have other channels.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", size=32, limit=10)
        >>> fa.data.corrupted(digits, "fog", severity=5).name
        'digits test at 32x32, fog 5'

    Source:
        Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations", and the scripts that made the published sets, github.com/hendrycks/robustness.
    """
    return Corrupted(dataset, corruption, severity, seed, constants)


@dataclass(frozen=True)
class Corrupt:
    """Corrupt each image in a way that is drawn for it: pass it to `fa.train.fit` as `augment`.

    A corruption and a severity, each as likely, are drawn anew in each epoch, by the seed and the sample's
    number: not by its batch.

    Args:
        names: of corruptions, "c15" for the fifteen or "all", as in `fa.data.corrupted`.
        severities: one or several, from 1 to 5.
        constants: as in `fa.data.corrupted`.

    Raises:
        InputError: an argument is none of these.

    Example:
        >>> import torch, fastadv as fa
        >>> noisy = fa.data.Corrupt(["gaussian_noise", "impulse_noise"], (1, 2, 3))
        >>> x, ids = torch.rand(5, 3, 32, 32), torch.arange(5)
        >>> torch.equal(noisy(x, ids=ids, seed=0)[3:], noisy(x[3:], ids=ids[3:], seed=0))
        True

    Source:
        Hendrycks and Dietterich 2019, who ask not to train on corruptions that a net is measured on.
    """

    names: str | Iterable[str] = "c15"
    severities: int | Iterable[int] = SEVERITIES
    constants: str | None = None

    def __post_init__(self) -> None:
        check_constants(self.constants)
        object.__setattr__(self, "names", named(self.names))
        object.__setattr__(self, "severities", check_severities(self.severities))

    def __call__(self, x: Tensor, *, ids: Tensor, seed: int) -> Tensor:
        """Return images [B, C, H, W], uint8 or float32 in [0, 1], corrupted; floats are on 256 levels."""
        check_images(x, "corrupt")
        cells = [*product(self.names, check_severities(self.severities))]
        ids = ids.to(x.device)
        check_column("ids", ids, x, torch.int64)
        drawn = rng.integers(len(cells), rng.derive(seed, "corrupt"), ids)
        y = torch.empty_like(x)
        for k in torch.unique(drawn).tolist():
            (name, severity), rows = cells[k], (drawn == k).nonzero()[:, 0]
            some = corrupt(x[rows], name, severity, seed, ids[rows], self.constants)
            y[rows] = some if x.dtype == torch.uint8 else to_unit(some)
        return y
