"""JPEG compression beside the files of libjpeg-turbo, which Pillow writes and reads."""

import io

import numpy as np
import pytest
import torch

from fastadv.data.corruption import CORRUPTIONS
from fastadv.data.corruption.card import Draws
from fastadv.data.corruption.jpeg import jpeg_compression

QUALITIES = sorted({quality for row in CORRUPTIONS["jpeg_compression"].constants.values() for quality in row})
SIZES = [(32, 32), (33, 47), (64, 40), (41, 50), (50, 49), (224, 224)]


def compressed(levels, quality):
    """Return images [B, H, W, C] of bytes, compressed by the library."""
    x = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
    draws = Draws(0, torch.arange(len(x)))
    return (jpeg_compression(x, quality, draws) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def reopened(levels, quality):
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.fromarray(levels.squeeze()).save(file, "JPEG", quality=quality)
    return np.array(image.open(file)).reshape(levels.shape)


def smooth(height, width):
    down, across = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    return np.stack([down, across, 1 - (down + across) / 2], -1) * 255


def pictures(height, width):
    """Return noise, black and white noise, a gradient and a photograph, or waves for it: [4, H, W, 3]."""
    draw = np.random.default_rng(3)
    noise = draw.integers(0, 256, (height, width, 3))
    try:
        from skimage.data import astronaut

        photograph = astronaut()[40 : 40 + height, 170 : 170 + width]
    except ImportError:
        photograph = 127 + 120 * np.sin(smooth(height, width) ** 1.5 / 40)
    return np.stack([noise, noise // 128 * 255, smooth(height, width), photograph]).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_every_level_is_that_of_pillow(size):
    qualities = QUALITIES if max(size) < 100 else (7, 25, 80)
    for quality in (1, *qualities, 100):
        for channels in (3, 1):
            x = np.ascontiguousarray(pictures(*size)[..., :channels])
            expected = np.stack([reopened(one, quality) for one in x])
            assert np.array_equal(compressed(x, quality), expected), (quality, channels)


def test_an_image_does_not_depend_on_its_batch():
    x = np.concatenate([pictures(47, 61), pictures(47, 61)[:, ::-1]])
    whole = compressed(x, 18)
    assert np.array_equal(np.concatenate([compressed(one[None], 18) for one in x]), whole)
    assert np.array_equal(compressed(x[::-1].copy(), 18)[::-1], whole)


@pytest.mark.parametrize("size", SIZES)
def test_the_best_quality_moves_no_level_far_and_worse_ones_further(size):
    x = smooth(*size).astype(np.uint8)[None, ..., :1]
    moved = [np.abs(compressed(x, quality).astype(int) - x) for quality in (100, 40, 7)]
    assert moved[0].max() <= 3
    assert moved[0].mean() < moved[1].mean() < moved[2].mean()


def test_gray_stays_gray_and_equals_its_one_channel():
    gray = np.ascontiguousarray(pictures(45, 38)[..., :1])
    rgb = compressed(gray.repeat(3, -1), 10)
    assert (rgb == rgb[..., :1]).all()
    assert np.array_equal(rgb[..., :1], compressed(gray, 10))


def test_a_flat_image_keeps_its_color():
    for level in (0, 127, 128, 255):
        x = np.full((1, 35, 32, 3), level, dtype=np.uint8)
        assert np.abs(compressed(x, 80).astype(int) - level).max() <= 1
