"""Corruptions beside imagecorruptions-imaug, and beside the paper's formulas where that leaves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import tests.vision  # noqa: F401
from fastadv import rng
from fastadv.data.corruption.card import CORRUPTIONS, SEVERITIES, Draws
from fastadv.data.corruption.sets import corrupt
from fastadv.data.corruption.spatter import spatter
from fastadv.data.corruption.weather import PHOTOGRAPHS, frost_folder

oracle = pytest.importorskip("imagecorruptions")
cv2 = pytest.importorskip("cv2")
filters = pytest.importorskip("skimage.filters")
ndimage = pytest.importorskip("scipy.ndimage")
stats = pytest.importorskip("scipy.stats")
Image = pytest.importorskip("PIL.Image")

BLUR = ("defocus_blur", "gaussian_blur", "zoom_blur")
EXACT = ("brightness", "contrast", "saturate", "pixelate", "jpeg_compression", *BLUR)
IDS = torch.tensor([3])
LEVEL = 1e-3  # of each two-sample test


def photograph(name: str, size: int) -> np.ndarray:
    from skimage import data

    image = getattr(data, name)()[:224, 100:324]
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))


def ours(image: np.ndarray, name: str, severity: int, count: int = 0, table: str = "imagenet") -> np.ndarray:
    """Corrupt one image, as sample 3, or `count` copies of it, as samples 0 to count - 1."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    ids = torch.arange(count) if count else IDS
    y = corrupt(x.expand(len(ids), -1, -1, -1), name, severity, 0, ids, table)
    whole = y.permute(0, 2, 3, 1).numpy().astype(int)
    return whole if count else whole[0]


def draws_of(name: str, severity: int) -> Draws:
    return Draws(rng.derive(0, f"corruption {name}", severity), IDS)


def theirs(image: np.ndarray, name: str, severity: int, draws: Draws) -> np.ndarray:
    """Corrupt an image by the oracle, which gets the random numbers of `draws` from NumPy."""
    calls = iter(range(100))

    def normal(loc: float = 0.0, scale: float = 1.0, size: Any = None) -> np.ndarray:
        channels_first = (*size[2:], *size[:2])
        noise = draws.normal(*channels_first)[0].numpy()
        return loc + scale * (noise.transpose(1, 2, 0) if len(size) == 3 else noise)

    def uniform(low: float, high: float, size: Any = ()) -> Any:
        draw = next(calls) if name == "fog" else int(name == "snow")
        return low + (high - low) * draws.uniform(*size, draw=draw)[0].numpy().astype(np.float64)

    with patch("numpy.random.normal", normal), patch("numpy.random.uniform", uniform):
        return np.asarray(oracle.corrupt(image, severity, name)).astype(int)


@pytest.mark.parametrize("size", [224, 97, 32])
@pytest.mark.parametrize("name", EXACT)
def test_what_draws_nothing_is_the_oracles(name: str, size: int) -> None:
    for source in ("astronaut", "chelsea"):
        image = photograph(source, size)
        for severity in SEVERITIES:
            wanted = np.asarray(oracle.corrupt(image, severity, name)).astype(int)
            if name == "pixelate":  # which the oracle enlarges by PIL's nearest, not by its boxes
                share, small = CORRUPTIONS[name].of("imagenet", severity), Image.fromarray(image)
                small = small.resize([int(size * share)] * 2, Image.BOX)
                wanted = np.asarray(small.resize([size] * 2, Image.BOX)).astype(int)
            assert np.abs(ours(image, name, severity) - wanted).max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise", "fog", "motion_blur", "snow"])
def test_the_same_random_numbers_give_the_oracles_image(name: str, severity: int) -> None:
    image = photograph("chelsea", 180)  # which every zoom of snow divides: the oracle does not trim layers
    apart = np.abs(ours(image, name, severity) - theirs(image, name, severity, draws_of(name, severity)))
    # The oracle cuts off what ImageMagick rounds, and rounds flakes that the paper's code cuts off
    assert apart.max() <= {"snow": 2}.get(name, 1)
    assert name in ("snow", "motion_blur") or (apart > 0).mean() < 0.003


def spread(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Return of each image the mean, the deviation and the roughness of what was added to it, [3, N]."""
    added = images - clean.astype(int)
    rough = np.abs(np.diff(added, axis=1)).mean((1, 2, 3)) + np.abs(np.diff(added, axis=2)).mean((1, 2, 3))
    return np.stack([added.mean((1, 2, 3)), added.std((1, 2, 3)), rough])


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["shot_noise", "impulse_noise", "glass_blur"])
def test_draws_are_distributed_as_the_oracles(name: str, severity: int) -> None:
    image, count = photograph("astronaut", 48), 60
    # of numba, NumPy and scikit-image
    more: Callable[[int], dict[str, int]] = lambda k: (  # noqa: E731
        {"seed": k} if name in ("glass_blur", "impulse_noise") else {}
    )
    with rng.generators_kept(rng.CPU, 5):
        drawn = [oracle.corrupt(image, severity, name, **more(k)) for k in range(count)]
    both = [spread(images, image) for images in (ours(image, name, severity, count), np.stack(drawn))]
    for one, other in zip(*both, strict=True):
        assert stats.ks_2samp(one, other).pvalue > LEVEL


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_moves_pixels_between_two_blurs(severity: int) -> None:
    from fastadv.ops.glass_shuffle import glass_shuffle

    image, draws = photograph("astronaut", 64), draws_of("glass_blur", severity)
    sigma, distance, iterations = CORRUPTIONS["glass_blur"].of("tiny", severity)
    blurred = np.uint8(filters.gaussian(image / 255.0, sigma=sigma, channel_axis=-1) * 255)
    x = torch.from_numpy(blurred).permute(2, 0, 1)[None]
    moved = glass_shuffle(x, IDS, distance, iterations, draws.seed)[0].permute(1, 2, 0).numpy()
    wanted = np.uint8(filters.gaussian(moved / 255.0, sigma=sigma, channel_axis=-1) * 255)
    assert np.abs(ours(image, "glass_blur", severity, table="tiny") - wanted).max() <= 1


@pytest.mark.parametrize("table", ["cifar", "tiny", "imagenet"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_the_papers(severity: int, table: str) -> None:
    side = {"cifar": 32, "tiny": 64, "imagenet": 224}[table]
    image = photograph("astronaut", side)
    draws, size = draws_of("elastic_transform", severity), np.array([side, side])
    amount, sigma, reach = CORRUPTIONS["elastic_transform"].of(table, severity)
    middle, third = np.float32(size) // 2, side // 3
    points = np.float32(middle + third * np.array([[1, 1], [1, -1], [-1, -1]]))
    moved = np.float32(points + reach * (2 * draws.uniform(3, 2)[0].numpy() - 1))
    matrix = cv2.getAffineTransform(points, moved)
    x = cv2.warpAffine(np.float32(image) / 255, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    noise = 2 * draws.uniform(2, side, side, draw=1)[0].numpy().astype(np.float64) - 1
    smooth = [filters.gaussian(one, sigma, mode="reflect", truncate=3) * amount for one in noise]
    places = np.meshgrid(*map(np.arange, size), indexing="ij")
    at = [place + one for place, one in zip(places, smooth, strict=True)]
    channels = [ndimage.map_coordinates(x[..., k], at, order=1, mode="reflect") for k in range(3)]
    apart = np.abs(ours(image, "elastic_transform", severity, table=table) - np.stack(channels, 2) * 255)
    assert apart.max() <= 1.1


@pytest.mark.parametrize(
    ("table", "size", "scale"), [("cifar", 32, 0.2), ("tiny", 64, 0.3), ("imagenet", 224, 1)]
)
def test_frost_adds_a_part_of_a_photograph(table: str, size: int, scale: float) -> None:
    image, folder = photograph("chelsea", size), Path(frost_folder())
    for severity in SEVERITIES:
        which, down, right = draws_of("frost", severity).uniform(3)[0].double().tolist()
        ice = cv2.imread(str(folder / PHOTOGRAPHS[int(which * 5)]))[..., ::-1]
        ice = cv2.resize(ice, (0, 0), fx=scale, fy=scale) if scale < 1 else ice
        top, left = int(down * (ice.shape[0] - size)), int(right * (ice.shape[1] - size))
        kept, added, _ = CORRUPTIONS["frost"].of(table, severity)
        wanted = np.clip(kept * image + added * ice[top : top + size, left : left + size], 0, 255)
        assert np.abs(ours(image, "frost", severity, table=table) - np.uint8(wanted)).max() <= 2


@pytest.mark.parametrize(("channels", "more"), [(3, 0), (1, 0), (3, 0.35)])  # the last overflows bytes
@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_same_layer_of_spatter_gives_the_oracles_image(severity: int, channels: int, more: float) -> None:
    x = np.random.default_rng(severity).integers(0, 256, (224, 198, channels), dtype=np.uint8)
    draws = Draws(severity, torch.tensor([7]))
    (mean, *others), *rest = CORRUPTIONS["spatter"].of("imagenet", severity)
    unit = torch.from_numpy(x).permute(2, 0, 1)[None] / 255
    y = spatter(unit, ((mean + more, *others), *rest), draws)[0].permute(1, 2, 0).clamp(0, 1) * 255
    layer = draws.normal(224, 198)[0].double().numpy()
    with patch("numpy.random.normal", lambda size, loc, scale: layer * scale + loc + more):
        expected = np.asarray(oracle.corruptions.spatter(Image.fromarray(x.squeeze()), severity)).reshape(
            x.shape
        )
    assert (np.abs(y.numpy() - expected) <= 2).mean() > 0.999
    assert np.abs(expected - x).max() > 40
