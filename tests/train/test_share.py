"""How processes share a batch; what they then train is compared in tests/train/processes/."""

import pytest
import torch

from fastadv.runs import processes
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
    # a process without a sample has one all the same, that counts for nothing
    assert all(len(share.own(rows)) == max(share.count, 1) for share in shares)
    sent = []
    monkeypatch.setattr(processes, "gather", lambda row: (sent.append(row), torch.stack(sent))[1])
    whole = [share.whole(share.own(rows)) for share in shares]
    assert torch.equal(whole[-1], rows)  # the last one has seen what all sent


@pytest.mark.parametrize("size", [1, 3, 8, 13, 29])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_a_batch_that_is_cut_is_summed_in_the_order_of_its_parts(size, world, monkeypatch):
    rows = torch.rand(size, 3)
    alone = [Share(size, number, 8) for number in range(min(size, 8))]
    wanted = torch.zeros(3)
    for part in alone:
        wanted = wanted + part.own(rows).sum(0)
    shares = [Share(size, rank, world, 8) for rank in range(world)]
    assert sum(part.count for share in shares for part in share.cut) == size
    each = [share.split(share.own(rows)) for share in shares]
    for share, parts in zip(shares, each, strict=True):
        assert all(torch.equal(p, q.own(rows)) for p, q in zip(parts, share.cut, strict=True))
        assert all(part.is_contiguous() for part in parts)
        assert torch.equal(share.joined(parts), share.own(rows))
    # one after another, each sending what it has; the last one sees what all have sent
    sent = {rank: [] for rank in range(world)}
    for rank, share in enumerate(shares):

        def gather(row, mine=sent[rank]):
            mine.append(row.clone())
            return torch.stack([each[len(mine) - 1] for each in sent.values() if len(each) >= len(mine)])

        monkeypatch.setattr(processes, "gather", gather)
        total = share.total(part.sum(0) for part in each[rank])
    assert torch.equal(total, wanted)


@pytest.mark.parametrize("augment", [None, "shift", "flip"])
@pytest.mark.parametrize("done", [0, 3])
@pytest.mark.parametrize("resident", [True, False])
def test_every_process_is_fed_its_share(augment, done, resident, monkeypatch):
    held = images(23)
    data = held if resident else [(x, int(y)) for x, y in zip(held.x, held.y, strict=True)]

    def fed(rank, world):
        monkeypatch.setattr(processes, "rank", lambda: rank)
        monkeypatch.setattr(processes, "world", lambda: world)
        feed = Feed(data, 6, make_augment(augment), 7, torch.device("cpu"))
        return feed, list(feed.batches(2, done))

    _, alone = fed(0, 1)
    for rank in range(4):
        feed, batches = fed(rank, 4)
        assert len(batches) == len(alone)
        for step, (own, whole) in enumerate(zip(batches, alone, strict=True), done):
            for mine, all_ in zip(own, whole, strict=True):
                assert torch.equal(mine, feed.share(step).own(all_))
