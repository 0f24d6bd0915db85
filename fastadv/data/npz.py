"""Images in npz files, as large sets of generated images are published."""

import hashlib
import zipfile
import zlib
from copy import copy
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from fastadv._waiting import waits
from fastadv.data._rows import fill_rows
from fastadv.data.imageset import Held, check_classes
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
            images, labels = (_Array(archive, name) for name in ("image.npy", "label.npy"))
            if len(images.shape) != 4 or 0 in images.shape or images.dtype != np.uint8:
                raise InputError(
                    f"{path}: expected image as uint8 [N, H, W, C] with at least one image, got "
                    f"{images.dtype} of shape {list(images.shape)}; convert it"
                )
            if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
                raise InputError(
                    f"{path}: expected label as {images.shape[0]} integers, one for each image, got "
                    f"{labels.dtype} of shape {list(labels.shape)}; convert it"
                )
            return (
                torch.from_numpy(images.mapped(path, archive)),
                torch.from_numpy(labels.read(archive).astype(np.int64)),
                [[array.info.CRC, array.info.file_size] for array in (images, labels)],
            )
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        raise CorruptFileError(
            f"{path}: expected a whole npz file, got one that does not read ({error}); get it again"
        ) from error


class _Array:
    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.info = archive.getinfo(name)
        with archive.open(name) as file:
            first = npy.read_magic(file) == (1, 0)
            header = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
            self.shape, self.columns_first, self.dtype = header(file)
            self.start = file.tell()

    def mapped(self, path: Path, archive: zipfile.ZipFile) -> np.ndarray[Any, Any]:
        """Return a private map of the file, which is never written, or what is read where it is packed."""
        if self.info.compress_type != zipfile.ZIP_STORED or self.columns_first:
            return self.read(archive)
        with path.open("rb") as file:
            file.seek(self.info.header_offset + _LOCAL_HEADER - 4)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        start = self.info.header_offset + _LOCAL_HEADER + name + extra + self.start
        return np.memmap(path, self.dtype, mode="c", offset=start, shape=self.shape)

    def read(self, archive: zipfile.ZipFile) -> np.ndarray[Any, Any]:
        with archive.open(self.info) as file:
            return np.ascontiguousarray(npy.read_array(file, allow_pickle=False))
