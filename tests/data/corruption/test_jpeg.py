"""JPEG compression beside the files of libjpeg-turbo, which Pillow writes and reads."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fastadv.data.corruption import CORRUPTIONS
from fastadv.data.corruption.card import Draws
from fastadv.data.corruption.jpeg import jpeg_compression

QUALITIES = sorted({quality for row in CORRUPTIONS["jpeg_compression"].constants.values() for quality in row})
SIZES = [(33, 47), (41, 50), (224, 224)]


def compressed(levels, quality):
    x = torch.from_numpy(levels.copy()).permute(0, 3, 1, 2).float() / 255
    y = jpeg_compression(x, quality, Draws(0, torch.arange(len(x)))) * 255
    return y.round().byte().permute(0, 2, 3, 1).numpy()


def pictures(height, width):
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3))
    down, across = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    smooth = np.stack([down, across, 1 - (down + across) / 2], -1) * 255
    return np.stack([noise, noise // 128 * 255, smooth]).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_level_is_that_of_pillow(size):
    for channels in (3, 1):
        x = pictures(*size)[..., :channels]
        for quality in (1, *QUALITIES, 100) if max(size) < 100 else (7, 25, 80):
            y = compressed(x, quality)
            for one, levels in zip(x, y, strict=True):
                file = io.BytesIO()
                Image.fromarray(one.squeeze().copy()).save(file, "JPEG", quality=quality)
                assert np.array_equal(levels.squeeze(), np.array(Image.open(file))), (quality, channels)
