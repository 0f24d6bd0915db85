"""Random windows, stretched to the size of the image."""

from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from fastadv import rng
from fastadv._checks import check_number
from fastadv.errors import InputError


def random_resized_crop(
    x: Tensor,
    *,
    ids: Tensor,
    seed: int,
    least: float = 0.08,
    most: float = 1.0,
    ratio: float = 4 / 3,
) -> Tensor:
    """Stretch a random window to the size of the image, bilinearly.

    Args:
        x: floating [B, C, H, W].
        ids: int [B], sample numbers; random numbers depend on them.
        seed: of the random numbers, an integer >= 0.
        least: the smallest share of the image's area that the window may have, in [0, most].
        most: the largest share, in (0, 1].
        ratio: the largest ratio of the window's width to its height, 1 or more; the smallest is 1 / ratio. A
            window that does not fit is cut to the image.

    Returns:
        Images like x.

    Raises:
        InputError: x has another shape, or is not floating.

    Source:
        Szegedy et al. 2015, "Going Deeper with Convolutions" (arXiv 1409.4842), section 6.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise InputError(
            f"random_resized_crop: expected images [B, C, H, W] of floating point, got {x.dtype} of shape "
            f"{tuple(x.shape)}"
        )
    check_number("least", least, 0, most)
    check_number("most", most, 1e-6, 1)
    check_number("ratio", ratio, 1)
    area, shape, top, left = rng.uniform(4, seed, ids.to(x.device)).double().unbind(1)
    area = least + (most - least) * area
    # a ratio and its inverse are as likely
    stretch = ratio ** (shape - 0.5)
    image = (x.shape[3] / x.shape[2]) ** 0.5
    width = ((area.sqrt() * stretch / image).clamp(max=1)).to(x.dtype)
    height = ((area.sqrt() / stretch * image).clamp(max=1)).to(x.dtype)
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2] = (1 - width) * (2 * left.to(x.dtype) - 1)
    theta[:, 1, 2] = (1 - height) * (2 * top.to(x.dtype) - 1)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    moved = grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.clamp(0, 1)  # weights may add up to a hair more than 1
