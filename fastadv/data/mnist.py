"""MNIST, as torchvision reads and downloads it."""

from pathlib import Path

from fastadv.data._places import fetch
from fastadv.data.imageset import ImageSet
from fastadv.errors import CorruptFileError


def mnist(root: Path, split: str, download: bool) -> ImageSet:
    """MNIST in its canonical order, x uint8 [N, 1, 28, 28]; read from MNIST/raw/*-ubyte below `root`.

    InputError where the files are not there and a download is not possible; CorruptFileError for damaged
    ones.
    """
    from fastadv._torchvision import datasets

    raw = root / "MNIST" / "raw"
    stem = "train" if split == "train" else "t10k"
    wanted = [raw / f"{stem}-images-idx3-ubyte", raw / f"{stem}-labels-idx1-ubyte"]
    if not all(path.is_file() for path in wanted):
        fetch("mnist", "MNIST/raw/*-ubyte", root, download, lambda: datasets.MNIST(root, download=True))
    try:
        images, labels = datasets.mnist.read_image_file(wanted[0]), datasets.mnist.read_label_file(wanted[1])
    # torchvision checks magic numbers and lengths by assertions, lookups and reshapes
    except (AssertionError, ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise CorruptFileError(
            f"{raw}: expected whole {stem}-*-ubyte files in IDX format, got one that does not read "
            f"({type(error).__name__}: {error}); delete it and load again"
        ) from error
    if len(images) != len(labels) or images.shape[1:] != (28, 28):
        raise CorruptFileError(
            f"{raw}: expected 28x28 images and as many labels, got images {list(images.shape)} and labels "
            f"{list(labels.shape)}; delete the {stem}-*-ubyte files and load again"
        )
    return ImageSet(images.unsqueeze(1), labels.long(), 10, f"mnist {split}")
