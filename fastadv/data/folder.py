"""Images in one folder for each class, read when they are asked for."""

import hashlib
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from fastadv._extras import need
from fastadv.data.imageset import Images, ImageSet, check_positions, to_unit
from fastadv.errors import CorruptFileError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Groups = Sequence[tuple[str, Sequence[Path]]]
"""For each class its name and its files."""

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}


def class_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_in(folder: Path) -> list[Path]:
    images = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return sorted(path for path in images if not path.name.startswith("."))


def open_image(path: Path, mode: str = "RGB") -> "Image":
    """Return an image file in RGB or in gray; CorruptFileError where it is not a whole image."""
    need("PIL")
    from PIL import Image

    try:
        with Image.open(path) as image:
            return eight_bits(image).convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptFileError(
            f"{path}: expected a whole image file, got one that does not read ({error}); replace or remove it"
        ) from error


def to_tensor(image: "Image") -> Tensor:
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1).contiguous()


def read_image(path: Path, size: int | None = None, channels: int = 3) -> Tensor:
    """Return an image file as uint8 [C, H, W]; with `size`, its shorter side resized, its center cut out."""
    image = open_image(path, "L" if channels == 1 else "RGB")
    if size is not None:
        from fastadv._torchvision import functional

        image = functional.center_crop(functional.resize(image, size), size)
    return to_tensor(image)


HOW_TO_RESIZE = (
    "load the set with size=32, or another number, to resize and crop them, or take those of each shape by "
    "themselves"
)


def eight_bits(image: "Image") -> "Image":
    """Return the image itself, or a gray one of 16 bits in 8, which `convert` would cut at 255.

    ValueError for 32 bits, whose range nobody states.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel (mode {image.mode}), where 8 and 16 are read")
    if not image.mode.startswith("I;16"):
        return image
    from PIL.Image import fromarray

    return fromarray((np.asarray(image) >> 8).astype(np.uint8))


class FolderSet(Images):
    """Images read from disk at each access; item i is (float32 [C, H, W] in [0, 1], label).

    They come class by class. Of the set a part is drawn, each class by its share (`fastadv.data.load`).

    Args:
        root: the folder to which the paths in its hash are relative.
        groups: for each class its name and its files.
        name: for cards and titles.
        size: height and width of every image (resized, then the center is cut out); None leaves them as they
            are on disk.
        note: what a reader of results on this set must know.
        channels: 3 for colors, 1 for gray; images of the other kind are converted.
        lacking: whether some classes may have no images, as in a set that nobody trains on.
    """

    channels = 3

    def __init__(
        self, root: Path, groups: Groups, name: str, *, size: int | None = None, note: str = "",
        channels: int = 3, lacking: bool = False,
    ) -> None:  # fmt: skip
        empty = [group for group, files in groups if not files]
        if len(empty) == len(groups) or (empty and not lacking):
            what = f"classes without any: {', '.join(empty[:5])}" if groups else "no class folders"
            raise InputError(
                f"{name}: expected images in every class folder of {root}, got {what}; "
                "add images or remove the folder"
            )
        self.root, self.size, self.name, self.note, self.channels = root, size, name, note, channels
        self.classes = tuple(group for group, _ in groups)
        self.paths = [path for _, files in groups for path in files]
        sizes = torch.tensor([len(files) for _, files in groups], device="cpu")
        self.labels = torch.arange(len(groups), device="cpu").repeat_interleave(sizes)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image; of the first one if `size` is None."""
        return (self.channels, self.size, self.size) if self.size else tuple(self.pixels(0).shape)

    @cached_property
    def data_hash(self) -> str:
        """Hash of names, file sizes, labels, `size` and gray; not of the pixels, which stay on disk."""
        digest = hashlib.sha256((repr(self.size) + " gray" * (self.channels == 1)).encode())
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            name = path.relative_to(self.root).as_posix()
            digest.update(f"{name} {path.stat().st_size} {label}\n".encode())
        return digest.hexdigest()[:16]

    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Return some of the images."""
        index = check_positions(positions, len(self), self.name)
        if not len(index):
            raise InputError(f"{self.name}: expected at least one position, got none")
        part = copy(self)
        for name in ("shape", "data_hash"):  # what was cached of all images
            vars(part).pop(name, None)
        part.paths = [self.paths[i] for i in index.tolist()]
        part.labels = self.labels[index]
        return part

    def pixels(self, position: int) -> Tensor:
        """Return one image, uint8 [C, H, W]."""
        return read_image(self.paths[position], self.size, self.channels)

    def in_memory(self) -> ImageSet:
        """Return all images, read and decoded once."""
        first = self.pixels(0)
        x = first.new_empty((len(self), *first.shape))
        for position in range(len(self)):
            image = self.pixels(position) if position else first
            if image.shape != first.shape:
                raise InputError(
                    f"{self.paths[position]}: expected an image of shape {list(first.shape)}, as the first, "
                    f"got {list(image.shape)}; {HOW_TO_RESIZE}"
                )
            x[position] = image
        held = ImageSet(x, self.labels, self.classes, self.name, note=self.note)
        held.fixed_order = self.fixed_order
        return held

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return to_unit(self.pixels(position)), int(self.labels[position])

    def __repr__(self) -> str:
        return f"FolderSet({self.name!r}, {len(self)} images below {self.root}, {self.num_classes} classes)"


HELD_OUT = "a fifth of each class, by the names of the files, is for testing: there is no train/ and test/"
_SPLITS = {"train": ("train",), "test": ("test", "val")}


def split_folder(root: Path, split: str) -> tuple[Path, bool]:
    """Return the folder of a split below `root`, and whether it is `root` itself, for lack of splits."""
    named = [root / name for names in _SPLITS.values() for name in names if (root / name).is_dir()]
    if not named:
        return root, True
    if parts := [root / name for name in _SPLITS[split] if root / name in named]:
        return parts[0], False
    expected = " or ".join(f"{name}/" for name in _SPLITS[split])
    raise InputError(
        f"{root}: expected a folder {expected} for the {split} split, "
        f"got only {', '.join(p.name for p in named)}; move images there, or name {named[0]}, of which "
        "imagefolder holds out a fifth"
    )


def split_groups(groups: Groups, root: Path, split: str) -> Groups:
    """Return of each class, its name and its files, the fifth that is held out for testing, or the rest."""
    if single := [name for name, files in groups if len(files) == 1]:
        raise InputError(
            f"{root}: expected two images or more of each class, to hold out one for testing, got one of "
            f"{', '.join(single[:5])}; add images, or sort them into train/CLASS/ and test/CLASS/"
        )
    parts = []
    for name, files in groups:
        shuffled = sorted(files, key=lambda file: hashlib.sha256(f"{name}/{file.name}".encode()).digest())
        held_out = set(shuffled[: max(1, len(files) // 5)])
        parts.append((name, [file for file in files if (file in held_out) == (split == "test")]))
    return parts


def imagefolder(root: Path, split: str, size: int | None, channels: int | None = None) -> FolderSet:
    """Return images of root/train/CLASS/* and root/test/CLASS/* (or root/val), or of root/CLASS/*, lazily."""
    folder, bare = (root, False) if split == "all" else split_folder(root, split)
    groups: Groups = [(path.name, images_in(path)) for path in class_folders(folder)]
    groups, train = split_groups(groups, folder, split) if bare else groups, root / "train"
    theirs = {path.name for path in class_folders(train if train.is_dir() else folder)}
    if differ := sorted(theirs ^ {name for name, _ in groups}):
        raise InputError(
            f"{folder}: expected the classes of {train}, got {', '.join(differ[:5])} in one alone; add images"
        )
    return FolderSet(
        folder, groups, f"{root.name} {split}", size=size, note=HELD_OUT if bare else "",
        channels=channels or 3, lacking=split == "all",
    )  # fmt: skip
