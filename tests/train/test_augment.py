"""Augmentations: windows of the padded image, mirrored or not, keyed by (seed, id)."""

import pytest
import torch
from torch.nn.functional import pad

from fastadv.errors import InputError
from fastadv.train.augment import crop_flip, make_augment, shift


def windows(image, margin, flip):
    padded = pad(image, (margin,) * 4)
    height, width = image.shape[1:]
    plain = [
        padded[:, i : i + height, j : j + width] for i in range(2 * margin + 1) for j in range(2 * margin + 1)
    ]
    return plain + [w.flip(2) for w in plain] * flip


@pytest.mark.parametrize(
    ("augment", "size", "margin", "flip"), [(shift, 8, 1, 0), (crop_flip, 32, 4, 1), (crop_flip, 8, 1, 1)]
)
def test_each_image_is_a_window_and_all_windows_occur(augment, size, margin, flip):
    image = torch.rand(1, size, size, generator=torch.Generator().manual_seed(0))
    n = 20 * (2 * margin + 1) ** 2
    moved = augment(image.expand(n, -1, -1, -1), ids=torch.arange(n), seed=1)
    wanted = windows(image, margin, flip)
    hits = torch.stack([(moved == window).flatten(1).all(1) for window in wanted])
    assert (hits.sum(0) == 1).all(), "an image that is no window"
    assert (hits.sum(1) > 0).all(), "a window that never occurs"


def test_it_depends_on_seed_and_id_alone():
    x = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(100, 120)
    moved = crop_flip(x, ids=ids, seed=1)
    assert torch.equal(moved[5:9], crop_flip(x[5:9], ids=ids[5:9], seed=1))
    assert torch.equal(moved.flip(0), crop_flip(x.flip(0), ids=ids.flip(0), seed=1))
    assert not torch.equal(moved, crop_flip(x, ids=ids, seed=2))


def test_names_and_errors():
    assert make_augment(None) is None
    assert make_augment("shift") is shift
    assert make_augment(crop_flip) is crop_flip
    with pytest.raises(InputError, match="crop_flip"):
        make_augment("mixup")
    with pytest.raises(InputError, match=r"\[B, C, H, W\]"):
        shift(torch.rand(4, 64), ids=torch.arange(4), seed=0)
