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

TABLE = "metadata.csv"  # with file_name, as Hugging Face's "imagefolder" reads it
LEVELS = 255


def save_images(
    folder: str | PathLike[str], images: Tensor, y: Tensor, x: Tensor | None = None,
    threat: Threat | None = None, *, classes: Sequence[str] | int | None = None,
) -> Tensor:  # fmt: skip
    """Save images as PNGs of 8 bits, in a folder for each class, and a table of their names and labels.

    `fa.data.load("imagefolder", "all", data_dir=folder)` reads them with these labels and values, class by
    class; gray ones with `channels=1`. With `x` and `threat` they are rounded inside the ball.
    Rounding may undo a success, above all of a nearest point: count on what is returned.

    Args:
        folder: which is not there yet, or empty.
        images: [N, C, H, W], C being 1 or 3; float32 in [0, 1], or in the box of `threat`, or uint8.
        y: int64 [N], the labels.
        x: like images, the clean ones, where the images are adversarial.
        threat: the ball around x. Its box is finite, and files hold 256 levels of it.
        classes: the K names, or K; None is the largest label and one. Folders have the names, or the numbers
            where these do not sort as labels do. The folder of a class without images is empty.

    Returns:
        The images as the files hold them, float32 [N, C, H, W] in the box.

    Raises:
        InputError: images are neither gray nor RGB, or leave the box; some ball has no point of 8 bits, as a
            small one around x of more bits; the threat is no ball in a finite box; the folder is not empty.
        MissingExtraError: Pillow is missing.
    """
    need("PIL")
    from PIL import Image

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"folder: expected one that is not there yet or empty, got {folder}; name another")
    saved, levels = _rounded(images, x, threat)
    labels = check_index("y", y, len(saved), y.device).cpu()
    names = check_classes(labels, int(labels.max()) + 1 if classes is None else classes, "classes")
    folders, lines = _folders(names), io.StringIO()
    for name in folders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["file_name", "label", "class"])
    for number, (image, label) in enumerate(zip(levels.permute(0, 2, 3, 1), labels.tolist(), strict=True)):
        name = f"{folders[label]}/{number:06d}.png"
        with atomic_write(folder / name) as part:
            Image.fromarray(image.squeeze(2).numpy()).save(part, format="PNG")
        table.writerow([name, label, names[label]])
    write_text(folder / TABLE, lines.getvalue())
    return saved


def _rounded(images: Tensor, x: Tensor | None, threat: Threat | None) -> tuple[Tensor, Tensor]:
    """Return images of 8 bits, in the box, and their levels, uint8; both on the CPU."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        what = kind_of(images)
        raise InputError(
            f"images: expected [N, 1 or 3, H, W], got {what}; of an attack's result pass out.x_adv"
        )
    if (x is None) != (threat is None):
        raise InputError("x, threat: expected both or none, got one; pass the other, too")
    if x is None or threat is None:
        check_images(images, "images")
        levels = (to_unit(images.detach()) * LEVELS).round().to(torch.uint8).cpu()
        return levels.float() / LEVELS, levels
    if isinstance(threat, Named):
        raise InputError(f"threat: expected a ball, got {threat}; leave out x and threat to round to nearest")
    images, x = (to_unit(one.detach()).float() for one in (images, x))
    saved = threat.quantize(images, x, LEVELS)
    if outside := int((~threat.contains(saved, x)).sum()):
        raise InputError(
            f"images: expected points of 8 bits in the ball around each x, got none for {outside} of "
            f"{len(x)}; round x first, or take a larger radius"
        )
    low, high = threat.box
    return saved.cpu(), ((saved - low) / (high - low) * LEVELS).round().to(torch.uint8).cpu()


def _folders(names: Sequence[str]) -> list[str]:
    """Return the name of each class's folder, which sort as the labels do."""
    fit = all(name[:1] not in ("", ".") and not set(name) & {*"/\\"} for name in names)
    if fit and [*names] == sorted(set(names)):
        return [*names]
    return [f"{k:0{len(str(len(names) - 1))}}" for k in range(len(names))]
