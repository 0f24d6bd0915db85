"""Images of the page: samples at the median distance, and the hardest ones."""

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastadv.evaluation.figures.images import amplification, in_unit
from fastadv.evaluation.report.grid import class_name
from fastadv.evaluation.row import Samples
from fastadv.evaluation.table import Table
from fastadv.text import number

SHOWN, HARDEST = 8, 6  # samples
LARGEST = 112  # pixels of a longer side, beyond which images are made smaller
LESS, MORE = (0.0, 0.447, 0.698), (0.835, 0.369, 0.0)  # blue and vermilion, as in figures


LACKS = "the table keeps no samples; evaluate with keep_samples=True"


def gallery(
    kept: Samples | None, predictions: Tensor | None, classes: Sequence[str] | None, box: tuple[float, float]
) -> dict[str, Any] | str:
    """Return samples nearest to the median distance of those broken, or why there are none.

    predictions: int64 [n], of x_adv. Differences are magnified by `gain`; images are addresses.
    """
    if kept is None:
        return LACKS
    broken = (kept.by >= 0).nonzero()[:, 0]
    if not len(broken):
        return "no attack broke a sample"
    if not is_image(kept.x):
        return f"inputs of shape {list(kept.x.shape[1:])} are no gray or color images"
    distance = kept.distance[broken]
    middle = distance.median()
    chosen = broken[(distance - middle).abs().argsort(stable=True)[:SHOWN].sort().values]
    both = in_unit(torch.stack([kept.x[chosen], kept.x_adv[chosen]]), box)  # an infinite box: of one range
    x, x_adv = map(small, both)
    gain = amplification([x_adv - x])
    shots = []
    for place, index in enumerate(chosen.tolist()):
        images = {"clean": x[place], "adversarial": x_adv[place]}
        images["difference"] = magnified(x_adv[place] - x[place], gain)
        words = {
            "label": class_name(int(kept.y[index]), classes),
            "becomes": "" if predictions is None else class_name(int(predictions[index]), classes),
            "text": f"sample {int(kept.ids[index])}, distance {number(float(kept.distance[index]))}",
        }
        shots.append({name: png(image) for name, image in images.items()} | words)
    smaller = x.shape != kept.x[chosen].shape
    return {"shots": shots, "gain": gain, "median": number(middle.item()), "smaller": smaller}


def hardest(
    table: Table, margins: Tensor | None, classes: Sequence[str] | None, box: tuple[float, float],
    *, farthest: bool,
) -> list[dict[str, str]] | str:  # fmt: skip
    """Return the samples that held by the largest margin, then those broken `farthest`; or why none."""
    kept = table.samples
    if kept is None:
        return LACKS
    held = (table.correct & (kept.by < 0)).nonzero()[:, 0]
    if margins is not None:
        held = held[margins[held].argsort(stable=True)]
    broken = (kept.by >= 0).nonzero()[:, 0] if farthest else held[:0]
    far = broken[kept.distance[broken].argsort(descending=True, stable=True)]
    shown = []
    for index in torch.cat([held, far])[:HARDEST].tolist():
        became = f"broken at {number(float(kept.distance[index]))}" if kept.by[index] >= 0 else "held"
        if margins is not None:
            became += f", clean margin {number(float(margins[index]))}"
        picture = png(small(in_unit(kept.x[index : index + 1], box))[0]) if is_image(kept.x) else ""
        text, label = f"sample {int(kept.ids[index])}, {became}", class_name(int(kept.y[index]), classes)
        shown.append({"picture": picture, "label": label, "text": text})
    return shown or "no sample held against all attacks"


def is_image(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[1] in (1, 3) and min(x.shape[2:]) > 0


def small(x: Tensor) -> Tensor:
    """Make images [N, C, H, W] smaller where a side is beyond the largest that is shown."""
    scale = LARGEST / max(x.shape[2:])
    if scale >= 1:
        return x
    size = [max(1, round(side * scale)) for side in x.shape[2:]]
    return torch.nn.functional.interpolate(x, size, mode="area")


def magnified(difference: Tensor, gain: float) -> Tensor:
    """Show a difference [C, H, W]: a color one around mid-gray, a gray one white, blue or vermilion."""
    if len(difference) == 3:
        return (0.5 + gain * difference).clamp(0, 1)
    strength = (gain * difference).clamp(-1, 1)
    less, more = (torch.tensor(color, device="cpu")[:, None, None] for color in (LESS, MORE))
    return 1 - strength.abs() * (1 - torch.where(strength < 0, less, more))


def png(image: Tensor) -> str:
    """Return the address that holds an image [1 or 3, H, W] in [0, 1] as an 8-bit PNG."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    height, width, channels = pixels.shape
    lines = torch.cat([pixels.new_zeros(height, 1), pixels.reshape(height, -1)], 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = {b"IHDR": head, b"IDAT": zlib.compress(lines.numpy().tobytes(), 9), b"IEND": b""}
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts.items()
    )
    return "data:image/png;base64," + b64encode(data).decode()
