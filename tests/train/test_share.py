"""How processes share a batch; what they then train is compared in tests/train/processes/."""

import pytest
import torch

from fastadv import _processes
from fastadv.train._feed import Feed
from fastadv.train._share import Share
from fastadv.train.augment import make_augment
from tests.train.nets import images


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_shares_make_up_the_batch(size, world, monkeypatch):
    rows = torch.rand(size, 3)
    shares = [Share(size, rank, world) for rank in range(world)]
    assert sum(share.count for share in shares) == size
    assert sum(share.weight for share in shares) == pytest.approx(1)
    # a process without a sample has one all the same, that counts for nothing
    assert all(len(share.own(rows)) == max(share.count, 1) for share in shares)
    sent = []
    monkeypatch.setattr(_processes, "gather", lambda row: (sent.append(row), torch.stack(sent))[1])
    whole = [share.whole(share.own(rows)) for share in shares]
    assert torch.equal(whole[-1], rows)  # the last one has seen what all sent


@pytest.mark.parametrize("augment", [None, "shift", "flip"])
@pytest.mark.parametrize("done", [0, 3])
@pytest.mark.parametrize("resident", [True, False])
def test_every_process_is_fed_its_share(augment, done, resident, monkeypatch):
    held = images(23)
    data = held if resident else [(x, int(y)) for x, y in zip(held.x, held.y, strict=True)]

    def fed(rank, world):
        monkeypatch.setattr(_processes, "rank", lambda: rank)
        monkeypatch.setattr(_processes, "world", lambda: world)
        feed = Feed(data, 6, make_augment(augment), 7, torch.device("cpu"))
        return feed, list(feed.batches(2, done))

    _, alone = fed(0, 1)
    for rank in range(4):
        feed, batches = fed(rank, 4)
        assert len(batches) == len(alone)
        for step, (own, whole) in enumerate(zip(batches, alone, strict=True), done):
            for mine, all_ in zip(own, whole, strict=True):
                assert torch.equal(mine, feed.share(step).own(all_))
