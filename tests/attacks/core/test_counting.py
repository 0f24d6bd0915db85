"""Forwards and backwards in a result are those the model has seen."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import bim, pgd
from fastadv.engine import Frozen, Model, freeze
from fastadv.threat import Linf

from ..nets import Case, Counted, convnet, images, labels, mlp, threat


def counted(net: nn.Module) -> tuple[nn.Module, Counter[str]]:
    seen: Counter[str] = Counter()
    return Counted(net, lambda n: seen.update(forward=n), lambda n: seen.update(backward=n)), seen


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"stop_early": False}, {"restarts": 3}, {"random_start": True}])
def test_counts_are_true(attack: Case, options: dict[str, object]) -> None:
    if not all(attack.takes(option) for option in options):
        pytest.skip("not one of its options")
    net, x = mlp(), images(20)
    model, seen = counted(net)
    y = labels(net, x)
    y[:3] = (y[:3] + 1) % 3
    out = attack(model, x, y, threat("l2"), **options)
    assert (out.forwards, out.backwards) == (seen["forward"], seen["backward"])
    again = attack(net, x, y, threat("l2"), **options)
    # a net that does not ask whether a gradient is followed may save a pass
    assert again.forwards + again.backwards <= out.forwards + out.backwards


def test_counts_are_true_of_both_twins() -> None:
    net, x = convnet(), images(20, (2, 8, 8), dtype=torch.float32)
    y = labels(net, x)
    frozen, seen = freeze(net), Counter[str]()

    def count(part: Model, z: Tensor) -> Tensor:
        seen.update(forward=len(z))
        return part(z)

    form, given = frozen.search.form, frozen.search.given
    given.model = partial(count, given.model)
    frozen.search.use(replace(form, model=partial(count, form.model)))
    pgd(frozen, x, y, threat("linf"), steps=8)  # in which passes are compared, which does not count
    seen.clear()
    out = pgd(frozen, x, y, threat("linf"), steps=8)
    assert out.forwards == seen["forward"]


def test_the_price_of_a_run() -> None:
    model, x = mlp(), images(10)
    y = labels(model, x)
    out = bim(model, x, y, threat("linf"), steps=7, stop_early=False)
    # the first gradient is that of the clean pass
    assert (out.forwards, out.backwards) == (7 * 10 + 10 + 10, 7 * 10)
    random = pgd(model, x, y, Linf(1e-4), steps=7)  # nothing breaks
    assert (random.forwards, random.backwards) == (10 + 7 * 10 + 10, 7 * 10)
    frozen = bim(freeze(model), x, y, threat("linf"), steps=7, stop_early=False)
    assert frozen.backwards == out.backwards
    early = bim(model, x, y, threat("linf"), steps=7)
    assert early.success.any()
    assert early.backwards < out.backwards
    assert torch.equal(early.success, out.success)


def test_a_frozen_model_is_used_as_it_is() -> None:
    model, x = convnet(), images(10, (2, 8, 8), dtype=torch.float32)
    y = labels(model, x)
    frozen: Frozen = freeze(model)
    first, second = (pgd(frozen, x, y, threat("linf"), steps=3) for _ in range(2))
    # the watched pass and the check of the search twin are paid once
    assert first.forwards - second.forwards == 20
    assert torch.equal(first.x_adv, second.x_adv)
