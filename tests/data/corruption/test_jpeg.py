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
    x = torch.from_numpy(levels.copy()).permute(0, 3, 1, 2).float() / 255
    y = jpeg_compression(x, quality, Draws(0, torch.arange(len(x)))) * 255
    return y.round().byte().permute(0, 2, 3, 1).numpy()


def pictures(height, width):
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3))
    down, across = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    smooth = np.stack([down, across, 1 - (down + across) / 2], -1) * 255
    return np.stack([noise, noise // 128 * 255, smooth]).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_every_level_is_that_of_pillow(size):
    pillow, data = pytest.importorskip("PIL.Image"), pytest.importorskip("skimage.data")
    photograph = data.astronaut()[40 : 40 + size[0], 170 : 170 + size[1]]
    for channels in (3, 1):
        x = np.concatenate([pictures(*size), photograph[None]])[..., :channels]
        for quality in (1, *QUALITIES, 100) if max(size) < 100 else (7, 25, 80):
            y = compressed(x, quality)
            for one, levels in zip(x, y, strict=True):
                file = io.BytesIO()
                pillow.fromarray(one.squeeze().copy()).save(file, "JPEG", quality=quality)
                assert np.array_equal(levels.squeeze(), np.array(pillow.open(file))), (quality, channels)


@pytest.mark.parametrize("size", SIZES)
def test_a_worse_quality_moves_levels_further_and_the_best_by_3_at_most(size):
    x = pictures(*size)[2:, ..., :1]
    moved = [np.abs(compressed(x, quality).astype(int) - x) for quality in (100, 40, 7)]
    assert moved[0].max() <= 3
    assert moved[0].mean() < moved[1].mean() < moved[2].mean()


def test_gray_stays_gray_and_equals_its_one_channel():
    gray = pictures(45, 38)[..., :1]
    assert np.array_equal(compressed(gray.repeat(3, -1), 10), compressed(gray, 10).repeat(3, -1))
