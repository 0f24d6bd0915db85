"""A flow of pixels."""

from dataclasses import dataclass

from torch import Tensor

from fastadv.ops._rows import PerRow
from fastadv.threat.base import check_box
from fastadv.threat.linf import Linf
from fastadv.threat.moved import pixels_of, sampled
from fastadv.threat.through import Through


def Flow(radius: PerRow, *, box: tuple[float, float] = (0.0, 1.0)) -> Through:
    """Take each pixel from elsewhere in the image, by a flow of its own: bilinear, no farther than the edge.

    The parameters t [B, 2, H, W] say how many pixels to the right, and how many down, a pixel comes from. The
    paper has no radius but a penalty on flows that differ between neighbors.

    Args:
        radius: the largest shift of a pixel along each axis, in pixels; a number or [B]. It has no default.
        box: (lo, hi) of valid images. The default is [0, 1].

    Returns:
        A `Through` of images [B, C, H, W].

    Source:
        Xiao et al. 2018, "Spatially Transformed Adversarial Examples" (arXiv 1801.02612), equation 1.
    """
    ball = Linf(radius, (float("-inf"), float("inf")))
    return Through(_Flow(check_box(box)), ball, _still, box=box, name="Flow")


@dataclass(frozen=True)
class _Flow:
    box: tuple[float, float]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        columns, rows = pixels_of(x)
        return sampled(x, t, columns + t[:, 0], rows + t[:, 1], "border", self.box)


def _still(x: Tensor) -> Tensor:
    pixels_of(x)
    return x.new_zeros(len(x), 2, *x.shape[2:])
