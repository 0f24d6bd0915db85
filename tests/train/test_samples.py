"""Rows of samples lie with the processes that pass the samples, and move once an epoch."""

from pathlib import Path

import torch
from torch import Tensor

from fastadv import rng
from fastadv.runs import processes
from fastadv.train._samples import SampleRows
from tests.processes import go

SIZE, WORLD = 11, 3


def owners(epoch: int) -> Tensor:
    """None for the last process in the first epoch; of the others none has as many as another."""
    return rng.integers(WORLD if epoch > 1 else 2, rng.derive(5, "owners", epoch), torch.arange(SIZE)) % WORLD


def own(epoch: int) -> Tensor:
    return (owners(epoch) == processes.rank()).nonzero()[:, 0]


def moves(folder: Path, rank: int) -> None:
    """Write in one epoch, read in later ones, and hand over to the first process."""
    samples, sent = SampleRows(SIZE, owners), list[int]()
    exchange = processes.exchange
    processes.exchange = lambda *given: (sent.append(1), exchange(*given))[1]  # type: ignore[assignment]
    samples.write(1, own(1), {"row": own(1).half()[:, None, None].expand(-1, 2, 3), "number": own(1)})
    for epoch in (2, 4):
        for _ in range(2):
            held = samples.read(epoch, own(epoch))
            assert held["number"].equal(own(epoch))
            assert held["row"].equal(own(epoch).half()[:, None, None].expand(-1, 2, 3))
        assert len(sent) == (2 if epoch == 2 else 4)  # one for each name, and once an epoch
    whole = samples.whole()
    assert rank or whole["number"].tolist() == list(range(SIZE))
    again = SampleRows(SIZE, owners)
    again.restore(4, {"number": torch.arange(SIZE)})
    assert again.read(4, own(4))["number"].equal(own(4))
    before = len(sent)
    samples.write(5, own(5)[:1], {"number": -own(5)[:1] - 1})
    assert len(sent) == before  # what is written before it is read does not move
    assert (samples.rows["number"] < 0).sum() == min(1, len(own(5)))


def test_rows_move_to_the_process_that_reads_them(tmp_path: Path) -> None:
    go("tests.train.test_samples", "moves", tmp_path, WORLD)


def test_one_process_holds_all_in_the_order_of_samples() -> None:
    samples = SampleRows(4)
    samples.write(1, torch.tensor([2, 0]), {"row": torch.tensor([[1.0], [2.0]])})
    assert samples.whole()["row"].tolist() == samples.rows["row"].tolist() == [[2.0], [0.0], [1.0], [0.0]]
    assert samples.read(2, torch.tensor([0]))["row"].tolist() == [[2.0]]
