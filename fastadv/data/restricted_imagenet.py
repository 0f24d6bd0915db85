"""Restricted ImageNet: nine super-classes of ImageNet (Tsipras et al. 2019; used by Ilyas et al. 2019)."""

from pathlib import Path

from fastadv.data.folder import FolderSet, class_folders, images_in
from fastadv.data.imagefolder import split_folder
from fastadv.errors import InputError

# First and last ImageNet class (of 1,000, by sorted WordNet id), in the order of the labels.
SUPER_CLASSES = {
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "monkey": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}


def restricted_imagenet(root: Path, split: str, size: int | None) -> FolderSet:
    """Return the nine super-classes of an ImageNet folder, root/{train,val}/nXXXXXXXX/*, read lazily.

    Images are 224x224 unless `size` is given. Classes outside the nine are left out. InputError unless the
    split has exactly 1,000 class folders, because the ranges count them in sorted order.
    """
    folder, _ = split_folder(root, split)
    folders = class_folders(folder)
    if len(folders) != 1000:
        raise InputError(
            "restricted_imagenet: expected the 1000 class folders of ImageNet (n01440764 ...) in "
            f"{folder}, got {len(folders)}; name the folder that holds train/ and val/ with data_dir"
        )
    groups = [
        (name, [file for path in folders[first : last + 1] for file in images_in(path)])
        for name, (first, last) in SUPER_CLASSES.items()
    ]
    return FolderSet(folder, groups, f"restricted_imagenet {split}", size=size or 224)
