"""glass_shuffle against the loop of the published code over views of a NumPy array, and what it refuses."""

import numpy as np
import pytest
import torch

from fastadv.ops.glass_shuffle import glass_shuffle
from fastadv.ops.philox import philox
from tests.refusals import refuses


def by_views(x, sample, distance, rounds, seed):
    """A swap of two pixels [C] of an array [H, W, C], as it stands in make_imagenet_c.py."""
    image = x.permute(1, 2, 0).numpy().copy()
    height, width = image.shape[:2]
    for draw in range(rounds):
        words = philox(torch.tensor([sample]), height * width, "bits", seed, draw)[0].tolist()
        for h in range(height - distance, distance, -1):
            for w in range(width - distance, distance, -1):
                word = words[h * width + w]
                right = ((word >> 16) * 2 * distance >> 16) - distance
                down = ((word & 0xFFFF) * 2 * distance >> 16) - distance
                other = h + down, w + right
                image[h, w], image[other] = image[other], image[h, w]
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("shape", "distance", "rounds"),
    [((3, 32, 32), 1, 2), ((1, 32, 47), 2, 1), ((3, 40, 33), 4, 3), ((2, 17, 17), 8, 4), ((1, 16, 40), 8, 4)],
)
def test_equals_the_published_loop(shape, distance, rounds):
    x = torch.randint(256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ids, seed = torch.tensor([3, 2**40, 0]), 2**50 + distance
    out = glass_shuffle(x, ids, distance, rounds, seed)
    for image, before, sample in zip(out, x, ids.tolist(), strict=True):
        assert torch.equal(image, by_views(before, sample, distance, rounds, seed))
    assert torch.equal(out, x) == (min(shape[1:]) <= 2 * distance)


def test_refusals():
    x, ids = torch.zeros(2, 3, 9, 9, dtype=torch.uint8), torch.arange(2)
    refuses("x", glass_shuffle, x.float(), ids, 1, 1)
    refuses("x", glass_shuffle, x[0], ids, 1, 1)
    refuses("ids", glass_shuffle, x, ids[:1], 1, 1)
    refuses("ids", glass_shuffle, x, ids.int(), 1, 1)
    refuses("distance", glass_shuffle, x, ids, 9, 1)
    refuses("distance", glass_shuffle, x, ids, 0, 1)
    refuses("rounds", glass_shuffle, x, ids, 1, 5)
    refuses("seed", glass_shuffle, x, ids, 1, 1, -1)
