"""The published MNIST network falls, and the search in bfloat16 finds what the one in float32 finds."""

import pytest
import torch
from torch import Tensor, nn

from fastadv import data, models
from fastadv.attacks import ATTACKS, Status, fgsm, pgd
from fastadv.engine import freeze
from fastadv.threat import L2, Linf


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


@pytest.mark.slow
def test_binary_images_move(published: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = published[0], published[1][:6], published[2][:6]
    binary = x.round()
    for name, attack in ATTACKS.items():
        if "linf" not in attack.norms:
            continue
        out = attack.run(model, binary, y, Linf(0.3), **attack.quick)
        attacked = out.status == Status.BROKEN if attack.minimal else out.status != Status.ALREADY_WRONG
        assert (out.x_adv != binary).flatten(1).float().mean(1)[attacked].min() > 0.1, name


@pytest.mark.slow
def test_iterations_beat_one_step(published: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = published
    one, many = fgsm(model, x, y, L2(1.5)), pgd(model, x, y, L2(1.5), steps=20, random_start=False)
    assert many.success.sum() > one.success.sum()
