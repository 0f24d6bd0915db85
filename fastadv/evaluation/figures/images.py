"""Rows of images, each image with a caption below it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastadv._checks import check_count, kind_of
from fastadv.attacks import AttackResult, Status
from fastadv.data.imageset import UNIT, check_images, to_unit
from fastadv.errors import InputError
from fastadv.evaluation.figures import style
from fastadv.evaluation.figures.style import BLUE, FAINT, FRAME, INK, VERMILION
from fastadv.text import number, several, threat_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE, GAP, LINE = 0.7, 0.08, 0.165  # inches: an image's longer side, between images, one line of a caption
BASE = 0.145  # inches from an image to the baseline of its caption


@dataclass(frozen=True)
class Strip:
    """A row of images.

    Args:
        name: at the left of the row, in black.
        images: [N, C, H, W] in the box, C being 1 or 3.
        captions: N of them, or none.
        marked: bool [N]; captions that are in the color `mark`; None marks none.
        mark: the color.
        difference: whether the images are differences of such images. They are drawn amplified, by a factor
            written after the name: gray ones orange where light was added and blue where some was taken,
            those in color around mid-gray, channel by channel.
        remark: at the left of the row, below the name, in gray; by default, for gray differences,
            what the colors mean.
        apart: inches of room above the row.
        box: (low, high) of the images, which is brought to [0, 1].
    """

    name: str
    images: Tensor
    captions: Sequence[object] = ()
    marked: Tensor | None = None
    mark: str = VERMILION
    difference: bool = False
    remark: str = ""
    apart: float = 0.0
    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        images = self.images
        if self.difference and not self.remark and images.ndim == 4 and images.shape[1] == 1:
            object.__setattr__(self, "remark", "orange lighter, blue darker")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
            raise InputError(
                f"images: expected [N, 1 or 3, H, W] with N > 0, got {tuple(images.shape)}; reshape them"
            )
        if self.captions and len(self.captions) != len(images):
            raise InputError(f"captions: expected {len(images)}, one per image, got {len(self.captions)}")
        if self.marked is not None and len(self.marked) != len(self.captions):
            raise InputError(
                f"marked: expected {len(self.captions)}, one for each caption, got {len(self.marked)}"
            )
        if self.box != (0, 1):
            mapped = in_unit(images, self.box)
            if self.difference:
                wide = self.box[1] - self.box[0]
                mapped = images / (wide if math.isfinite(wide) else float(images.abs().max()) or 1.0)
            object.__setattr__(self, "images", mapped)
            object.__setattr__(self, "box", (0.0, 1.0))  # of what is drawn

    def first(self, count: int) -> "Strip":
        marked = None if self.marked is None else self.marked[:count]
        return replace(self, images=self.images[:count], captions=self.captions[:count], marked=marked)

    @property
    def height(self) -> float:
        """Inches that the images and captions take."""
        lines = max((str(caption).count("\n") + 1 for caption in self.captions), default=0)
        return self.side[1] + (0.05 + lines * LINE if lines else 0.0)

    @property
    def side(self) -> tuple[float, float]:
        """Width and height of one image in inches."""
        height, width = self.images.shape[2:]
        return SIDE * width / max(height, width), SIDE * height / max(height, width)


CAPTIONS = {Status.ALREADY_WRONG: "was wrong", Status.BROKEN: "broken", Status.HELD: "held"}
Captions = Tensor | Sequence[object]


def strips(
    x: Tensor | AttackResult | Sequence[Strip], x_adv: Tensor | AttackResult | None = None,
    path: str | PathLike[str] | None = None, *, y: Captions = (), y_adv: Captions = (),
    box: tuple[float, float] | None = None, limit: int = 10, title: str | None = None, subtitle: str = "",
) -> "Figure":  # fmt: skip
    """Draw images above their adversarial examples and the differences; or rows of your own.

    All differences share one amplification, which stands beside them.

    Args:
        x: images [N, C, H, W], C being 1 or 3; or what an attack returned, whose x_adv are drawn alone; or a
            list of `Strip`, drawn as they are.
        x_adv: like x; or what an attack on x returned.
        path: of a file to write: .png, .pdf or .svg.
        y: N captions below x, such as labels or names of classes.
        y_adv: N captions below x_adv, orange where they differ from `y`. Without any, those of a result say
            what became of each image.
        box: (low, high) of the images; None is that of a result's threat, or [0, 1].
        limit: of tensors and results this many images are drawn, the first ones.
        title: above the rows; None is none.
        subtitle: below the title, in gray.

    Returns:
        The matplotlib figure.

    Raises:
        InputError: there are no images, or neither gray nor RGB ones; shapes or numbers of captions differ;
            values lie outside of the box; or the path has another ending.
    """
    if isinstance(x, Tensor | AttackResult):
        check_count("limit", limit, 1)
        rows = _compared(x, x_adv, y, y_adv, box)
        count = len(rows[0].images)
        first = f"the first {limit} of {several(count, 'image')}" if count > limit else ""
        rows, subtitle = [row.first(limit) for row in rows], "; ".join(filter(None, (subtitle, first)))
    elif x_adv is None and all(isinstance(row, Strip) for row in x):
        rows = list(x)
    else:
        listed = isinstance(x, list | tuple) and len(x)
        what = f"a list with {kind_of(x[0])}" if listed else kind_of(x)
        raise InputError(
            f"x: expected images [N, C, H, W], the result of an attack, or a list of Strip, got {what}; "
            "write strips(x, x_adv, path=...) or strips(rows, path=...)"
        )
    if not rows:
        raise InputError("x: expected at least one strip of images, got none")
    gain = amplification([row.images for row in rows if row.difference])
    below_title = 0.26 * bool(title)
    top = below_title + 0.24 * bool(subtitle)
    width = max(len(row.images) * (row.side[0] + GAP) for row in rows) - GAP
    height = top + sum(row.apart + row.height + GAP for row in rows) - GAP
    figure = style.new_figure(width, height, title)
    # one sheet for all, in inches from the upper left corner: axes for each image would take long
    sheet = figure.add_axes((0, 0, 1, 1))
    sheet.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    sheet.set_axis_off()
    write = partial(figure.text, transform=sheet.transData)
    write(0, below_title, subtitle, fontsize=8.5, color=FAINT, va="top")
    for row in rows:
        top += row.apart
        (wide, high), name = row.side, f"{row.name} × {gain:g}".lstrip() if row.difference else row.name
        middle, apart = top + high / 2, 0.085 if row.remark else 0.0
        write(-0.14, middle - apart, name, fontsize=9, color=INK, ha="right", va="center")
        write(-0.14, middle + apart, row.remark, fontsize=7.5, color=FAINT, ha="right", va="center")
        for column, image in enumerate(row.images.detach().cpu()):
            start = column * (wide + GAP)
            draw_image(sheet, image, gain if row.difference else None, (start, start + wide, top + high, top))
            if row.captions:
                marked = row.marked is not None and bool(row.marked[column])
                sheet.text(
                    start + wide / 2, top + high + BASE, str(row.captions[column]), ha="center",
                    va="baseline", fontsize=9, linespacing=1.15, color=row.mark if marked else INK,
                    fontweight="bold" if marked else "normal",
                )  # fmt: skip
        top += row.height + GAP
    return style.finish(figure, path)


def _compared(
    x: Tensor | AttackResult, x_adv: Tensor | AttackResult | None, y: Captions, y_adv: Captions,
    box: tuple[float, float] | None,
) -> list[Strip]:  # fmt: skip
    """Return the strips of images, of their adversarial examples, and of the differences."""
    if isinstance(x, AttackResult) and x_adv is not None:
        raise InputError(
            "x: expected the images that were attacked, got a result; write strips(x, out), or strips(out, "
            "path=...)"
        )
    result = next((one for one in (x, x_adv) if isinstance(one, AttackResult)), None)
    images = {"x": None if x is result else x, "x_adv": x_adv if result is None else result.x_adv}
    box = box or (UNIT if result is None or result.threat is None else result.threat.box)
    drawn = {name: _checked(one, name, box) for name, one in images.items() if one is not None}
    if len({one.shape for one in drawn.values()}) > 1:
        shapes = [list(one.shape) for one in drawn.values()]
        raise InputError(f"x_adv: expected {shapes[0]}, like x, got {shapes[1]}")
    if not all(map(math.isfinite, box)):  # one range for all rows
        ends = torch.stack([torch.stack(one.aminmax()) for one in drawn.values()])
        box = float(ends.min()), float(ends.max())
    known, seen = _captions("y", y), _captions("y_adv", y_adv)
    marked, name, remark = None, "adversarial", ""
    if known and seen:
        marked = torch.tensor([one != other for one, other in zip(known, seen, strict=False)], device="cpu")
    if result is not None:
        name, remark = result.attack or name, threat_text(result.threat) if result.threat else ""
        if not seen:
            seen, marked = _outcomes(result), (result.status == Status.BROKEN).cpu()
    rows = []
    if "x" in drawn:
        rows.append(Strip("clean", drawn["x"], known, box=box))
    if "x_adv" in drawn:
        rows.append(Strip(name, drawn["x_adv"], seen, marked, remark=remark, apart=0.12, box=box))
    if len(drawn) == 2:
        rows.append(Strip("difference", drawn["x_adv"] - drawn["x"], difference=True, box=box))
    return rows


def _captions(name: str, captions: Captions) -> list[Any]:
    if not isinstance(captions, Tensor):
        return list(captions)
    if captions.ndim != 1:
        raise InputError(
            f"{name}: expected one caption for each image, [N], got {list(captions.shape)}; of logits pass "
            ".argmax(1)"
        )
    return list[Any](captions.tolist())


def _checked(x: Any, name: str, box: tuple[float, float]) -> Tensor:
    """Return images in float32 on the CPU."""
    if not isinstance(x, Tensor):
        what = kind_of(x)
        raise InputError(f"{name}: expected a tensor or the result of an attack, got {what}; path= is a file")
    x = x.detach().cpu()
    x = x.float() if x.is_floating_point() else x
    check_images(x, name, box)
    return to_unit(x)


def _outcomes(result: AttackResult) -> list[str]:
    """Say what became of each sample, with the distance where the attack had no budget."""
    told = result.threat is not None and not result.threat.finite
    pairs = zip(result.status.tolist(), result.distance.tolist(), strict=True)
    return [
        number(far) if told and status == Status.BROKEN else CAPTIONS.get(Status(status), "failed")
        for status, far in pairs
    ]


def in_unit(x: Tensor, box: tuple[float, float]) -> Tensor:
    """Bring x from the box to [0, 1]; what is not finite becomes 0."""
    low, high = box if all(map(math.isfinite, box)) else (float(x.min()), float(x.max()))
    return ((x.float() - low) / max(high - low, 1e-12)).nan_to_num(0, 0, 0).clamp(0, 1)


def amplification(differences: Sequence[Tensor]) -> float:
    """Return the largest round number, at least 1, that saturates no difference; colors have half a range."""
    sizes = (float(d.abs().max()) / (1.0 if d.shape[1] == 1 else 0.5) for d in differences)
    largest = max(sizes, default=0.0)
    return round_down(1 / largest) if largest > 0 else 1.0


def round_down(value: float) -> float:
    """Return the largest of 1, 1.5, 2, 3, 5, 8 times a power of ten that is not above `value`; at least 1."""
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return max(1.0, max(step * power for step in (1, 1.5, 2, 3, 5, 8) if step * power <= value * (1 + 1e-6)))


def draw_image(
    axes: "Axes", image: Tensor, gain: float | None, extent: tuple[float, float, float, float]
) -> None:
    """Draw an image [1 or 3, H, W] in [0, 1], or with `gain` an amplified difference, in a thin frame."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    pixels, colors = image.permute(1, 2, 0).numpy(), dict[str, Any]()
    if len(image) == 1:
        less_more = LinearSegmentedColormap.from_list("less_more", [BLUE, "#FAFAFA", VERMILION])
        colors = {"cmap": "gray", "vmin": 0, "vmax": 1}
        if gain is not None:
            colors = {"cmap": less_more, "vmin": -1 / gain, "vmax": 1 / gain}
        pixels = pixels[..., 0]
    elif gain is not None:
        pixels = np.clip(0.5 + gain * pixels, 0, 1)
    axes.imshow(pixels, interpolation="nearest", extent=extent, aspect="auto", **colors)
    left, right, bottom, top = extent
    frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=FRAME, clip_on=False)
    frame.set(linewidth=0.6, zorder=2.5)
    axes.add_patch(frame)
