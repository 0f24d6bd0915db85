"""Images as files: PNGs of 8 bits in class folders, rounded inside the ball, and a table of them."""

import csv
import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from fastadv._checks import kind_of
from fastadv._extras import need
from fastadv.data.imageset import check_classes, check_images, to_unit
from fastadv.errors import InputError
from fastadv.files import atomic_write, write_text
from fastadv.labels import check_index
from fastadv.threat import Named, Threat

TABLE = "metadata.csv"  # as Hugging Face's "imagefolder" reads it, by its column file_name
LEVELS = 255


def save_images(
    folder: str | PathLike[str], images: Tensor, y: Tensor, x: Tensor | None = None,
    threat: Threat | None = None, *, classes: Sequence[str] | int | None = None, ids: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Save images as PNGs of 8 bits, in a folder for each class, and a table of their names and labels.

    `fa.data.load("imagefolder", "all", data_dir=folder)` reads them with these labels and values, class by
    class, gray ones with three equal channels. With `x` and `threat` images are rounded inside the ball.
    Rounding may undo a success, above all of a nearest point: count on what is returned.

    Args:
        folder: which is not there yet, or empty.
        images: [N, C, H, W], C being 1 or 3; float32 in [0, 1], or in the box of `threat`, or uint8.
        y: int64 [N], the labels.
        x: like images, the clean ones, where the images are adversarial.
        threat: the ball around x, in whose finite box the 256 levels lie; of [-1, 1], too, they are read in
            [0, 1].
        classes: the K names, or K; None is the largest label and one. They name the folders, with their
            numbers before them where names do not sort as these. Of a class without images it is empty.
        ids: int64 [N], the numbers in the names of the files; None counts from 0.

    Returns:
        The images as they are in the files, [N, C, H, W], float32 in the box.

    Raises:
        InputError: images are neither gray nor RGB, or leave the box; the ball of some has no point of 8
            bits, as a small one around x of more bits; the box is infinite; the threat is no ball; the folder
            holds something.
        MissingExtraError: Pillow is missing.
        OSError: a file cannot be written.

    Example:
        >>> import tempfile, fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=20)
        >>> x, y, threat = (digits.x * 255).round() / 255, digits.y, fa.Linf(38 / 255)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> out = fa.attacks.pgd(model, x, y, threat)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = fa.data.save_images(folder, out.x_adv, y, x, threat, classes=10)
        ...     read = fa.data.load("imagefolder", "all", data_dir=folder)
        >>> bool(threat.contains(saved, x).all()), read.labels.tolist() == sorted(y.tolist())
        (True, True)
    """
    need("PIL")
    from PIL import Image

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"folder: expected one that is not there yet or empty, got {folder}; name another")
    saved, levels = _rounded(images, x, threat)
    labels = check_index("y", y, len(saved), y.device).cpu()
    names = check_classes(labels, int(labels.max()) + 1 if classes is None else classes, "classes")
    numbers = torch.arange(len(saved)) if ids is None else check_index("ids", ids, len(saved), ids.device)
    if len({*numbers.tolist()}) < len(numbers):
        raise InputError("ids: expected a number of its own for each image, got some twice; leave ids out")
    folders, table = _folders(names), io.StringIO()
    for name in folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file_name", "id", "label", "class"])
    pixels = levels.permute(0, 2, 3, 1).numpy()
    for image, number, label in zip(pixels, numbers.tolist(), labels.tolist(), strict=True):
        name = f"{folders[label]}/{number:06d}.png"
        with atomic_write(folder / name) as part:
            Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(part, format="PNG")
        writer.writerow([name, number, label, names[label]])
    write_text(folder / TABLE, table.getvalue())
    return saved


def _rounded(images: Tensor, x: Tensor | None, threat: Threat | None) -> tuple[Tensor, Tensor]:
    """Return images of 8 bits, in the box, and their levels, uint8 on the CPU."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise InputError(
            f"images: expected a tensor [N, 1 or 3, H, W] with N > 0, got {kind_of(images)}; of an attack's "
            "result pass out.x_adv"
        )
    if (x is None) != (threat is None):
        raise InputError("x, threat: expected both, of adversarial images, or none, got one; pass the other")
    if x is None or threat is None:
        check_images(images, "images")
        levels = (to_unit(images.detach()) * LEVELS).round().to(torch.uint8).cpu()
        return levels.float() / LEVELS, levels
    if isinstance(threat, Named):
        raise InputError(
            f"threat: expected a ball, got the map {threat.symbol}, inside which nothing rounds; leave out x "
            "and threat to round each value to the nearest level"
        )
    images, x = (to_unit(one.detach()).float() for one in (images, x))
    saved = threat.quantize(images, x, LEVELS)
    outside = int((~threat.contains(saved, x)).sum())
    if outside:
        raise InputError(
            f"images: expected points of 8 bits in the ball around each x, got none for {outside} of "
            f"{len(x)}; round x itself first, (x * 255).round() / 255, or take a larger radius"
        )
    low, high = threat.box
    return saved.cpu(), ((saved - low) / (high - low) * LEVELS).round().to(torch.uint8).cpu()


def _folders(names: Sequence[str]) -> list[str]:
    """Return a folder's name for each class, which sort as the classes do."""
    if wrong := [name for name in names if not name or set(name) & {"/", "\\"} or name.startswith(".")]:
        raise InputError(f"classes: expected names that folders can have, got {wrong[0]!r}; or pass K")
    if [*names] == sorted(set(names)):
        return [*names]
    digits = len(str(len(names) - 1))
    numbered = [f"{number:0{digits}}" for number in range(len(names))]
    plain = all(name == str(number) for number, name in enumerate(names))
    return numbered if plain else [f"{number} {name}" for number, name in zip(numbered, names, strict=True)]
