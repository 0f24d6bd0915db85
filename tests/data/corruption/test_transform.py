"""Corruptions drawn for training images: by seed, number and epoch alone, each as likely as the others."""

import pickle
from itertools import product

import pytest
import torch

import fastadv as fa
from fastadv.data.corruption.sets import corrupt
from fastadv.errors import InputError
from fastadv.runs.identity import describe

from .test_sets import X

NAMES = "gaussian_noise", "impulse_noise"
NOISY = fa.data.Corrupt(NAMES, (1, 5))


def test_an_image_is_corrupted_in_one_of_the_ways_each_as_often_whatever_its_batch():
    ids = torch.arange(400) + 7
    x = X.repeat(8, 1, 1, 1)
    y = NOISY(x, ids=ids, seed=3)
    ways = torch.stack([corrupt(x, *cell, 3, ids) for cell in product(NAMES, (1, 5))])
    counts = (ways == y).flatten(2).all(2).sum(1)
    assert int(counts.sum()) == 400
    assert int(counts.min()) > 60  # 100 expected, with a deviation of 8.7
    assert all(torch.equal(NOISY(x[k:], ids=ids[k:], seed=3), y[k:]) for k in (1, 150, 399))
    assert not torch.equal(NOISY(x, ids=ids, seed=4), y)
    assert torch.equal(NOISY(x / 255, ids=ids, seed=3), y / 255)
    fixed = fa.data.Corrupt(("brightness", "contrast"), 5, "tiny")
    assert not torch.equal(fixed(x, ids=ids, seed=3), fixed(x, ids=ids, seed=4))
    assert torch.equal(fixed(x[:1], ids=ids[:1], seed=3), corrupt(x[:1], "contrast", 5, 3, ids[:1], "tiny"))
    with pytest.raises(InputError, match=r"corrupt: expected pixels in \[0, 1\], got 0 to 1\.1"):
        NOISY(x / 230, ids=ids, seed=3)
    with pytest.raises(InputError, match=r"ids: expected int64 \[400\]"):
        NOISY(x, ids=ids[:1], seed=3)


def test_it_tells_what_it_does_and_travels():
    assert repr(NOISY) == f"Corrupt(names={NAMES}, severities=(1, 5), constants=None)"
    assert pickle.loads(pickle.dumps(NOISY)) == NOISY == fa.data.Corrupt(list(NAMES), [1, 5])
    assert fa.data.Corrupt("fog", 3) == fa.data.Corrupt(["fog"], (3,))
    assert describe(NOISY) != describe(fa.data.Corrupt(NAMES, (1, 5), "tiny"))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("gaussian_noize",), "corruption: expected .*did you mean 'gaussian_noise'"),
        ((NAMES, (0, 1)), "severity: expected 1, 2, 3, 4 or 5, got 0"),
        ((NAMES, (2, 2)), r"severities: expected some of 1, 2, 3, 4, 5, each once, got \[2, 2\]"),
        ((NAMES, (1,), "cifar10"), "constants: expected one of cifar, tiny, imagenet"),
    ],
)
def test_bad_arguments_are_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        fa.data.Corrupt(*arguments)
