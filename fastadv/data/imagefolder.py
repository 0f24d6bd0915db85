"""A user's own images, one folder for each class."""

from pathlib import Path

from fastadv.data.folder import FolderSet, class_folders, images_in
from fastadv.errors import InputError

_SPLITS = {"train": ("train",), "test": ("test", "val")}


def split_folder(root: Path, split: str) -> tuple[Path, bool]:
    """Return the folder of a split below `root`, and whether it is `root` itself, for lack of splits."""
    named = [root / name for names in _SPLITS.values() for name in names if (root / name).is_dir()]
    if not named:
        return root, True
    for name in _SPLITS[split]:
        if root / name in named:
            return root / name, False
    expected = " or ".join(f"{name}/" for name in _SPLITS[split])
    raise InputError(
        f"{root}: expected a folder {expected} for the {split} split, "
        f"got only {', '.join(p.name for p in named)}"
    )


def imagefolder(root: Path, split: str, size: int | None) -> FolderSet:
    """Return images of root/train/CLASS/* and root/test/CLASS/* (or root/val), read lazily.

    A bare folder, root/CLASS/*, serves the same images for either split, and its name says so. Labels number
    the class folders in alphabetical order. size: see FolderSet.
    """
    folder, bare = split_folder(root, split)
    groups = [(path.name, images_in(path)) for path in class_folders(folder)]
    return FolderSet(folder, groups, f"{root.name} {'(not split)' if bare else split}", size=size)
