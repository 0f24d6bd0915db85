"""The published MNIST network falls, and the search in bfloat16 finds what the one in float32 finds."""

import pytest
import torch
from torch import Tensor, nn

from fastadv import data, models
from fastadv.attacks import pgd
from fastadv.engine import freeze
from fastadv.threat import Linf


@pytest.fixture(scope="module")
def published(shared_data) -> tuple[nn.Module, Tensor, Tensor]:  # type: ignore[no-untyped-def]
    test = data.load("mnist", split="test", data_dir=shared_data.data_dir, limit=64)
    x, y = torch.stack([test[i][0] for i in range(64)]), torch.tensor([int(test[i][1]) for i in range(64)])
    return models.SchottCNN.from_official(shared_data.abs_official / "vanilla_cnn.net"), x, y


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_stands_at_0_3(published: tuple[nn.Module, Tensor, Tensor], precision: str) -> None:
    model, x, y = published
    frozen = freeze(model, precision)
    out = pgd(frozen, x, y, Linf(0.3), steps=40, step_size=0.01)
    assert out.success.all()
    assert (model.eval()(out.x_adv).argmax(1) != y).all()
    assert Linf(0.3).contains(out.x_adv, x).all()
    assert not any("fell back" in note for note in frozen.notes)
    assert out.backwards < 64 * 40 / 2
