"""Small results of many batches lie side by side, as they were."""

from functools import partial
from typing import Any

import pytest
from torch.utils.data import TensorDataset

import fastadv as fa
from fastadv.evaluation import measure
from tests.engine.nets import convnet, images

X, Y = images()


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
