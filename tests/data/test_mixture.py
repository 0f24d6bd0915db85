"""Real and generated images by a fixed fraction of every batch."""

import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastadv.data import ImageSet, Mixture
from tests import recorded
from tests.refusals import refuses

from .sets import toy_base
from .test_kinds import npz


def drawn(n, classes=5, seed=0, eight_bit=True, side=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, side, side, generator=generator)
    x = (x * 255).to(torch.uint8) if eight_bit else x
    return ImageSet(x, torch.randint(classes, (n,), generator=generator), classes, f"made {seed}")


@pytest.mark.slow
@given(
    real=st.integers(1, 60),
    generated=st.integers(1, 90),
    share=st.sampled_from(["7/10", "8/10", "1/3", "1/2", "2/7", "99/100", "1/100"]),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_batch_holds_the_fraction_and_the_passes_are_whole(real, generated, share, batch_size, seed):
    exact = Fraction(share)
    mixture = Mixture(drawn(real), drawn(generated, seed=1), float(exact))
    assert mixture.share == exact
    run = [mixture.epoch_order(seed, epoch) for epoch in (1, 2, 3)]
    assert [len(order) for order in run] == [real] * 3
    for order in run:
        for start in range(0, real, batch_size):
            batch = order[start : start + batch_size]
            count = int((batch >= real).sum())
            wanted = exact * len(batch)
            assert math.floor(wanted) <= count <= math.ceil(wanted)
    whole = torch.cat(run)
    before = [math.floor(exact * place) for place in range(3 * real + 1)]
    assert [int(i) >= real for i in whole] == [b > a for a, b in pairwise(before)]
    for kind, size in ((whole[whole < real], real), (whole[whole >= real] - real, generated)):
        counts = Counter(kind.tolist())
        assert set(counts) <= set(range(size))
        assert max(counts.values(), default=0) - min((counts[i] for i in range(size)), default=0) <= 1
        for start in range(0, len(kind) - size + 1, size):
            assert sorted(kind[start : start + size].tolist()) == list(range(size))


def test_orders_differ_by_seed_epoch_pass_and_kind():
    mixture = Mixture(drawn(40), drawn(40, seed=1), 0.5)
    orders = [mixture.epoch_order(seed, epoch) for seed in (0, 1) for epoch in (1, 2, 3, 4)]
    assert torch.equal(orders[1], mixture.epoch_order(0, 2))
    for k, order in enumerate(orders):
        for other in orders[:k]:
            for kind in (order < 40) & (other < 40), (order >= 40) & (other >= 40):
                assert not torch.equal(order[kind], other[kind])
    one = orders[0]
    assert not torch.equal(one[one < 40], one[one >= 40] - 40)


def test_mapped_images_mix_like_those_in_memory(tmp_path, monkeypatch):
    generated = drawn(20, seed=1)
    held = generated.x, generated.y
    mapped, memory = (
        Mixture(drawn(10), other, 0.7) for other in (npz(tmp_path, *held, cuts=(12,)), generated)
    )
    order = mapped.epoch_order(3, 2)
    assert torch.equal(order, memory.epoch_order(3, 2))
    expected, taken = memory.take(order), []
    recorded.as_on_a_gpu(monkeypatch)
    moved = mapped.to("cpu")
    recorded.capture(lambda: taken.append(moved.take(order)))  # which refuses to read a value
    assert torch.equal(taken[0], expected)


@pytest.mark.parametrize(
    ("real", "generated", "match"),
    [
        (drawn(4), drawn(4, side=5), r"generated: expected images of shape \[3, 4, 4\].*got \[3, 5, 5\]"),
        (drawn(4), toy_base(), r"got \[1, 8, 8\]"),
        (drawn(4, classes=2), drawn(30), "generated: expected labels from 0 to 1.*got 4"),
        (drawn(4), torch.utils.data.TensorDataset(torch.rand(3, 3, 4, 4)), "generated: expected an ImageSet"),
        ([1, 2], drawn(4), r"real: expected an ImageSet or an NpzSet, got list.*in_memory\(\)"),
    ],
)
def test_sets_that_do_not_mix_are_refused(real, generated, match):
    refuses(match, Mixture, real, generated, 0.5)
