"""CIFAR-10-C and CIFAR-100-C: the test images under corruptions (Hendrycks & Dietterich 2019)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastadv.data import cifar10
from fastadv.data.imageset import ImageSet
from fastadv.errors import CorruptFileError, InputError

# the fifteen of the benchmark, in the order of RobustBench, and the four that were left for validation
CORRUPTIONS = (
    "shot_noise", "motion_blur", "snow", "pixelate", "gaussian_noise", "defocus_blur", "brightness", "fog",
    "zoom_blur", "frost", "glass_blur", "impulse_noise", "contrast", "jpeg_compression", "elastic_transform",
)  # fmt: skip
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
SEVERITIES = (1, 2, 3, 4, 5)
# folder, class names or their number, record of the authors on Zenodo
SETS: dict[str, tuple[str, tuple[str, ...] | int, int]] = {
    "cifar10c": ("CIFAR-10-C", cifar10.CLASSES, 2535967),
    "cifar100c": ("CIFAR-100-C", 100, 3555552),
}


def cifar_c(name: str, root: Path, corruption: str | None = None, severity: int | str = 5) -> ImageSet:
    """CIFAR-10-C or CIFAR-100-C at a severity, x uint8 [N, 3, 32, 32], from CIFAR-10-C/*.npy below `root`.

    corruption: one of `CORRUPTIONS` or `EXTRA`; None: all fifteen of `CORRUPTIONS`, one after the other.
    severity: 1 to 5.

    Each file holds uint8 [50000, 32, 32, 3], 10,000 images for each severity in turn, and labels.npy their
    classes. InputError for other corruptions and severities, and for missing files; CorruptFileError for
    files of another kind.
    """
    if corruption is not None and corruption not in CORRUPTIONS + EXTRA:
        raise InputError(
            f"{name}: expected a corruption among {', '.join(CORRUPTIONS + EXTRA)}, got {corruption!r}"
        )
    if str(severity) not in map(str, SEVERITIES):
        raise InputError(f"{name}: expected a severity from 1 to 5, got {severity!r}")
    folder, classes, record = SETS[name]
    labels = _read(name, root / folder / "labels.npy", record).long()
    chosen = CORRUPTIONS if corruption is None else (corruption,)
    part = slice((int(severity) - 1) * (len(labels) // 5), int(severity) * (len(labels) // 5))
    parts = []
    for each in chosen:
        path = root / folder / f"{each}.npy"
        images = _read(name, path, record)
        if images.shape != (len(labels), 32, 32, 3) or len(labels) % 5 or images.dtype != torch.uint8:
            raise CorruptFileError(
                f"{path}: expected uint8 [N, 32, 32, 3], five severities of as many images, with N labels, "
                f"got {images.dtype} {list(images.shape)} with {len(labels)} labels; get the files again"
            )
        parts.append(images[part].permute(0, 3, 1, 2))
    what = f"{name} {corruption or 'all corruptions'}, severity {severity}"
    return ImageSet(torch.cat(parts), labels[part].repeat(len(chosen)), classes, what)


def _read(name: str, path: Path, record: int) -> Tensor:
    """Return an array, mapped into memory and not read as a whole."""
    if not path.is_file():
        raise InputError(
            f"{name}: expected {path.parent.name}/{path.name} below {path.parents[1]}, got none; unpack the "
            f"archive of https://zenodo.org/records/{record} there, or name its folder's parent with data_dir"
        )
    try:
        # mode c: a private copy where it is written, which it never is
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise CorruptFileError(
            f"{path}: expected an array as numpy.save writes it, got a file that does not read ({error}); "
            "get it again"
        ) from error
