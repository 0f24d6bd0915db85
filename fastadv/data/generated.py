"""Generated images: npz files, as large sets of them are published, and mixtures with real ones."""

import hashlib
import zipfile
import zlib
from copy import copy
from fractions import Fraction
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_share
from fastadv._waiting import waits
from fastadv.data._rows import fill_rows
from fastadv.data.imageset import Held, ImageSet, check_classes, to_unit
from fastadv.errors import CorruptFileError, InputError

_LOCAL_HEADER = 30  # bytes before a member's name in a zip file; the last four tell how long what follows is


class NpzSet(Held):
    """Images of one npz file, or of all npz files of a folder, sorted by name.

    Each file holds `image`, uint8 [N, H, W, C], and `label`, integers [N], as the million images of DDPM and
    EDM are published. Images that are stored uncompressed, as
    np.savez stores them, are mapped into memory and never copied as a whole; compressed ones are read. Item i
    is (float32 [C, H, W] in [0, 1], label).

    Args:
        path: of the file or the folder.
        classes: the K names, or K; None takes as many as the labels need.
    """

    def __init__(self, path: str | PathLike[str], classes: Any = None) -> None:
        path = Path(path)
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise InputError(f"{path}: expected an npz file, or a folder with some, got none; check its name")
        opened = [_open(file) for file in files]
        self.parts = [images for images, _, _ in opened]
        one = self.parts[0].shape[1:]
        for file, part in zip(files, self.parts, strict=True):
            if part.shape[1:] != one:
                raise InputError(
                    f"{file}: expected images of shape {list(one)}, as in {files[0].name}, "
                    f"got {list(part.shape[1:])}; keep one size in a folder"
                )
        self.name, self.note = path.stem, ""
        self.labels = torch.cat([labels for _, labels, _ in opened])
        most = max(0, int(self.labels.max()))
        self.classes = check_classes(self.labels, most + 1 if classes is None else classes, self.name)
        self._sums = [sums for _, _, sums in opened]

    @property
    def shape(self) -> tuple[int, ...]:
        height, width, channels = self.parts[0].shape[1:]
        return channels, height, width

    @cached_property
    def data_hash(self) -> str:
        """Hash of the check sums of all arrays that the files hold."""
        return hashlib.sha256(repr(self._sums).encode()).hexdigest()[:16]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def take(self, positions: Tensor) -> Tensor:
        counts = [len(part) for part in self.parts]
        rows = self.parts[0].new_empty((len(positions), *self.parts[0].shape[1:]))
        fill_rows(rows, positions.to(rows.device), counts, self.parts.__getitem__)
        return rows.permute(0, 3, 1, 2).contiguous()

    def to(self, device: torch.device | str) -> Self:
        moved = copy(self)
        parts = [part.to(device) for part in self.parts]
        moved.parts = [torch.cat(parts)] if waits(parts[0].device) else parts
        moved.labels = self.labels.to(device)
        return moved


def _open(path: Path) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Return (images [N, H, W, C], labels [N], check sum and size of both) of one file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not {"image.npy", "label.npy"} <= set(names):
                held = ", ".join(name.removesuffix(".npy") for name in names) or "none"
                raise InputError(f"{path}: expected the arrays image and label, got {held}; rename them")
            parts = [archive.getinfo(name) for name in ("image.npy", "label.npy")]
            images, labels = (_array(path, archive, part) for part in parts)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise CorruptFileError(
            f"{path}: expected a whole npz file, got one that does not read ({error}); get it again"
        ) from error
    if images.ndim != 4 or 0 in images.shape or images.dtype != np.uint8:
        raise InputError(
            f"{path}: expected image as uint8 [N, H, W, C] with at least one image, got "
            f"{images.dtype} of shape {list(images.shape)}; convert it"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: expected label as {images.shape[0]} integers, one for each image, got "
            f"{labels.dtype} of shape {list(labels.shape)}; convert it"
        )
    sums = [[part.CRC, part.file_size] for part in parts]
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), sums


def _array(path: Path, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    """Return a private map of an array in the file, which is never written; packed or by columns, itself."""
    with archive.open(part) as file:
        header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, columns_first, dtype = header(file)
        start = file.tell()
    if dtype.hasobject:  # refused, and never unpickled
        return np.empty(shape, dtype)
    if part.compress_type != zipfile.ZIP_STORED or columns_first:
        with archive.open(part) as file:
            return np.ascontiguousarray(npy.read_array(file, allow_pickle=False))
    with path.open("rb") as whole:
        whole.seek(part.header_offset + _LOCAL_HEADER - 4)
        name, extra = (int.from_bytes(whole.read(2), "little") for _ in range(2))
    start += part.header_offset + _LOCAL_HEADER + name + extra
    return np.memmap(path, dtype, mode="c", offset=start, shape=shape)


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
        drawn, begin = positions >= len(self.real), len(self.real)
        if waits(positions.device):  # as masks are read, each set gives all rows
            real = self.real.take(positions.clamp(max=begin - 1))
            generated = self.generated.take((positions - begin).clamp(min=0))
            return torch.where(drawn.view(-1, *[1] * len(self.shape)), *_alike(generated, real))
        real, generated = self.real.take(positions[~drawn]), self.generated.take(positions[drawn] - begin)
        real, generated = _alike(real, generated)
        x = real.new_empty((len(positions), *self.shape))
        x[~drawn], x[drawn] = real, generated.to(x.device)
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
