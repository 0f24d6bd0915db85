"""Thumbnails of constructed sets: which images are drawn, where, and with which labels."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from fastadv.data import ConstructedSet, ImageSet
from fastadv.errors import InputError
from fastadv.evaluation import figures
from fastadv.evaluation.figures import thumbnails


def base_set(classes: int, each: int, channels: int = 1) -> ImageSet:
    """The first pixel of an image tells its number."""
    count = classes * each
    x = torch.randint(256, (count, channels, 6, 6), dtype=torch.uint8)
    x[:, :, 0, 0] = torch.arange(count)[:, None] % 256
    return ImageSet(x, torch.arange(count) % classes, [f"n{k}" for k in range(classes)], "base")


def constructed(base: ImageSet, shift: int = 1) -> ConstructedSet:
    """Negatives, labeled with the next class."""
    y = base.y
    tensors = {
        "images": 255 - base.x,
        "labels": (y + shift) % base.num_classes,
        "ids": torch.arange(len(base)),
        "original_labels": y,
    }
    return ConstructedSet(tensors, {"config": {"classes": base.classes, "name": "negatives", "note": ""}})


@pytest.mark.parametrize("shift", [0, 1])
def test_sources_stand_above_what_was_made_of_them(drawn, shift):
    base = base_set(3, 4)
    thumbnails(constructed(base, shift), base, "a.png", per_class=2)
    images, texts = drawn[0].axes[0].images, drawn[0].axes[0].texts
    assert len(images) == 2 * 2 * 3
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        turn, made, k = place // 6, place // 3 % 2, place % 3
        pixels = base.x[3 * turn + k, 0].numpy() / 255
        assert np.asarray(image.get_array()) == pytest.approx(1 - pixels if made else pixels, abs=1e-6)
        assert text.get_text() == f"n{(k + shift * made) % 3}"
        assert (to_hex(text.get_color()).upper() == figures.VERMILION) == bool(shift and made)
    boxes = [image.get_window_extent() for image in images]
    top, left = [box.y0 for box in boxes], [box.x0 for box in boxes]
    assert top[:3] == [top[0]] * 3
    assert top[0] > top[3] > top[6] > top[9]
    assert left[:3] == left[3:6] == left[6:9]


def test_wrong_arguments(tmp_path):
    base = base_set(3, 2)
    with pytest.raises(InputError, match="per_class"):
        thumbnails(constructed(base), base, tmp_path / "a.png", per_class=0)
    with pytest.raises(InputError, match="path"):
        thumbnails(constructed(base), base, tmp_path / "a.gif")
    two = base_set(3, 2, channels=2)
    with pytest.raises(InputError, match="1 or 3"):
        thumbnails(constructed(two), two, tmp_path / "a.png")
