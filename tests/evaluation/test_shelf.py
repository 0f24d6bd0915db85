"""Small results of many batches lie side by side, as they were."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import fastadv as fa
from fastadv.evaluation import _outcome, measure
from fastadv.evaluation._outcome import Shelf
from tests.engine.nets import convnet, images

X, Y = images()


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def test_what_is_kept_is_a_copy_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outcome, "BLOCK", 256)
    draw = torch.Generator().manual_seed(0)
    given = {
        "bools": torch.rand(3, generator=draw) < 0.5,
        "doubles": torch.rand(2, 3, generator=draw, dtype=torch.float64),
        "none": torch.zeros(0, 4),
        "one": torch.tensor(7),
        "turned": torch.rand(3, 2, generator=draw).T,
        "large": torch.rand(17, generator=draw),
    }
    before = {name: tensor.clone() for name, tensor in given.items()}
    shelf = Shelf()
    kept = [shelf.keep(given) for _ in range(5)]
    large = given.pop("large")
    for tensor in given.values():
        tensor.zero_()
    for one in kept:
        assert one.pop("large") is large
        assert all(same(one[name], before[name]) for name in given)
    # 64 bytes for each but the empty one: four a block
    blocks = {tensor.untyped_storage().data_ptr() for one in kept for tensor in one.values()}
    assert len(blocks) == 5


def test_an_evaluation_keeps_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each result splits the memory that its batch leaves, and a stream takes ever more."""
    seen: list[Any] = []
    real = measure.row
    monkeypatch.setattr(measure, "row", lambda *args: [seen.extend(args[3]), real(*args)][1])
    data = TensorDataset(X.repeat(4, 1, 1, 1), Y.repeat(4))
    attacks = dict.fromkeys("ab", partial(fa.attacks.fgsm, threat=fa.Linf(0.05)))
    fa.evaluate(convnet().eval(), data, attacks, batch_size=4, indicators=False)
    tensors = [tensor for part in seen for tensor in part.tensors.values()]
    assert len(tensors) > 2 * len(data) // 4
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
