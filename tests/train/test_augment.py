"""Augmentations: what they do to an image, and that they are keyed by (seed, epoch, id) alone."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate, pad

from fastadv import rng
from fastadv.train.augment import AUGMENTS, crop, cutout, flip, make_augment, random_resized_crop


def images(n, channels=3, height=9, width=7, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, height, width, generator=generator).to(dtype)


def reference_cutout(image, row, column, size, fill):
    mask = np.ones(image.shape[1:], dtype=bool)
    top, left = row - size // 2, column - size // 2
    mask[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = False
    return np.where(mask, image.numpy(), np.asarray(fill, dtype=np.float32)[:, None, None])


@pytest.mark.parametrize(
    ("size", "fill"),
    [(1, 0.25), (3, (0.1, 0.2, 0.3)), (4, 0.0), (8, 0.25), (30, 0.0), (None, (0.1, 0.2, 0.3))],
)
def test_cutout_paints_a_square_whose_centers_are_all_the_pixels(size, fill):
    x = images(1) / 2 + 0.5
    n, height, width = 1000, 9, 7
    painted = cutout(x.expand(n, -1, -1, -1), ids=torch.arange(n), seed=3, size=size, fill=fill)
    side, values = size or 4, [fill] * 3 if isinstance(fill, float) else fill
    centers = [(i, j) for i in range(height) for j in range(width)]
    wanted = np.stack([reference_cutout(x[0], *center, side, values) for center in centers])
    hits = (painted[:, None] == torch.from_numpy(wanted)).flatten(2).all(2)
    assert hits.any(1).all(), "an image that no center gives"
    if side <= 4:  # wider squares cover the same part from several centers
        counts = hits[:, (hits.sum(0) > 0)].sum(0)
        assert hits.any(0).all()
        assert counts.min() > 3


def test_half_of_the_images_are_mirrored():
    x = images(1).expand(4000, -1, -1, -1)
    moved = flip(x, ids=torch.arange(4000), seed=5)
    mirrored = (moved == x.flip(3)).flatten(1).all(1)
    assert ((moved == x).flatten(1).all(1) ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 2000) < 160  # 5 standard deviations


# interpolation and colors round to the type
MOVING = AUGMENTS.keys() - {"random_resized_crop"}


@pytest.mark.parametrize("name", sorted(MOVING))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_type_and_layout_of_the_images_do_not_matter(name, dtype, channels):
    augment = make_augment(name)
    x, ids = images(20, channels, dtype=dtype), torch.arange(100, 120)
    key = {"seed": 1, "epoch": 2}
    moved = augment(x, ids=ids, **key)
    assert (moved.dtype, moved.shape) == (dtype, x.shape)
    assert torch.equal(moved, augment(x.to(memory_format=torch.channels_last), ids=ids, **key))
    assert torch.equal(moved.double(), augment(x.double(), ids=ids, **key))
    assert torch.equal(moved, torch.cat([augment(x[[i]], ids=ids[[i]], **key) for i in range(20)]))
    assert torch.equal(moved.flip(0), augment(x.flip(0), ids=ids.flip(0), **key))
    assert not torch.equal(moved, augment(x, ids=ids + 1000, **key))
    assert not torch.equal(moved, augment(x, ids=ids, seed=1, epoch=3))
    assert not torch.equal(moved, augment(x, ids=ids, seed=2, epoch=2))


@pytest.mark.slow
@given(
    n=st.integers(1, 8),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    padding=st.none() | st.integers(1, 5),
    seed=st.integers(0, 2**63 - 1),
    eight_bit=st.booleans(),
)
def test_crop_in_the_documented_arithmetic(n, channels, height, width, padding, seed, eight_bit):
    x = images(n, channels, height, width)
    x = (x * 255).to(torch.uint8) if eight_bit else x
    ids = torch.arange(n).flip(0)
    moved = crop(x, ids=ids, seed=seed, padding=padding)
    assert moved.dtype == x.dtype
    margin = padding or max(1, height // 8)
    for image, padded, i in zip(moved, pad(x, (margin,) * 4), ids.tolist(), strict=True):
        words = rng.bits(2, seed, torch.tensor([i]))[0].tolist()
        top, left = (word * (2 * margin + 1) // 2**32 for word in words)
        assert torch.equal(image, padded[:, top : top + height, left : left + width])


def test_parts_come_in_their_order_and_with_seeds_of_their_own():
    x, ids, seen = images(30), torch.arange(30), []

    def halved(x, *, ids, seed):
        seen.append(seed)
        return x / 2

    augment = make_augment(["crop_flip", halved, partial(cutout, size=3), halved])
    assert augment.parts[:2] == (crop, flip)
    results = [augment(x, ids=ids, seed=9, epoch=epoch) for epoch in (1, 2)]
    assert len({*seen, 9}) == 5
    keys = [rng.derive(9, "augment", 1, place) for place in range(4)]
    by_hand = crop(x, ids=ids, seed=keys[0])
    by_hand = flip(by_hand, ids=ids, seed=keys[1]) / 2
    by_hand = cutout(by_hand, ids=ids, size=3, seed=keys[3]) / 2
    assert torch.equal(results[0], by_hand)
    assert not torch.equal(results[0], results[1])


def test_a_window_of_the_whole_image_is_the_image_and_others_are_within():
    x = torch.rand(60, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(60)
    same = random_resized_crop(x[..., :8], ids=ids, seed=1, least=1.0, ratio=1.0)
    torch.testing.assert_close(same, x[..., :8], rtol=0, atol=1e-5)
    moved = random_resized_crop(x, ids=ids, seed=1)
    torch.testing.assert_close(moved[5:7], random_resized_crop(x[5:7], ids=ids[5:7], seed=1), rtol=0, atol=0)
    # a ramp from 0 to 1 tells where the window lies, and how wide it is
    ramp = (torch.arange(256) + 0.5).div(256).expand(1000, 1, 256, 256)
    options = {"least": 0.25, "most": 0.25, "ratio": 1.0}
    seen = random_resized_crop(ramp[:, :, :4], ids=torch.arange(1000), seed=2, **options)
    width = (seen[..., -1] - seen[..., 0]).mean((1, 2)) * 256 / 255
    assert width.max() <= 1.0
    left = seen[..., 0].mean((1, 2))
    assert left.min() < 0.01
    assert (left + width).max() > 0.99


def test_a_window_is_stretched_as_torch_does():
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([4])
    got = random_resized_crop(x, ids=ids, seed=0, least=0.25, most=0.25, ratio=1.0)
    _, _, top, left = rng.uniform(4, 0, ids)[0].tolist()
    fine = interpolate(x, scale_factor=64, mode="bilinear", align_corners=False)
    first, side = (round(4 * 64 * top), round(4 * 64 * left)), 4 * 64
    wanted = fine[..., first[0] : first[0] + side, first[1] : first[1] + side][..., 15::32, 15::32]
    torch.testing.assert_close(got, wanted, rtol=0, atol=4 / 64)
