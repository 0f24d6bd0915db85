"""Batches of odd kinds, and outputs that are no logits [B, K]: taken, or refused in words."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import prepare
from tests.refusals import refuses

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
DENSE = nn.Conv2d(3, 4, 3, padding=1).eval()
ONE = nn.Sequential(nn.Flatten(), nn.Linear(192, 1)).eval()


@pytest.mark.parametrize("freeze", [False, True])
def test_outputs_of_any_shape_are_rows_whose_shape_is_known(freeze: bool) -> None:
    prepared = prepare(DENSE, freeze=freeze, outputs="any")
    assert torch.allclose(prepared(X), DENSE(X).flatten(1), atol=1e-5)
    assert prepared.output_shape == (4, 8, 8)
    value, logits, gradient = prepared.input_gradient(X, X, lambda z, y, targets: z.square().sum(1))
    leaf = X.clone().requires_grad_()
    DENSE(leaf).square().sum().backward()
    assert torch.allclose(gradient, leaf.grad, atol=1e-4)
    assert logits.shape == (6, 256)
    assert torch.allclose(value, DENSE(X).square().flatten(1).sum(1), atol=1e-3)


def test_a_single_row_without_a_batch_has_the_shape_of_its_outputs() -> None:
    prepared = prepare(lambda x: DENSE(x).flatten(1).squeeze(0), outputs="any")
    for count in (1, 2):
        assert prepared(X[:count]).shape == (count, 256)
        assert prepared.output_shape == (256,)


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
@pytest.mark.parametrize("outputs", ["logit", "any"])
def test_one_number_a_sample_is_the_second_of_two(shape: tuple[int, ...], outputs: str) -> None:
    prepared = prepare(lambda x: ONE(x).view(shape), outputs=outputs)
    assert torch.equal(prepared(X), torch.cat([torch.zeros(6, 1), ONE(X)], 1))
    assert torch.allclose(prepared(X[:1]), prepared(X)[:1], atol=1e-6)


def test_a_frozen_model_is_the_same_again_for_the_same_outputs() -> None:
    frozen = fa.freeze(DENSE)
    taken = prepare(frozen, outputs="any")
    assert taken is prepare(frozen, outputs="any")
    assert taken is not frozen
    assert prepare(taken) is taken  # of an attack within an attack
    refuses(r"got torch.float32 .*Share", frozen, X)


def test_a_norm_of_the_batch_is_not_given_a_row_twice() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="more than 1 value"):
        fa.engine.Plain(net).verdict(X[:1])


GRAY, Y, NET = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.long), nn.Linear(16, 3).eval()
ATTACKS: dict[str, Callable[..., Any]] = {
    **{
        name: partial(getattr(fa.attacks, name), steps=5) for name in ("pgd", "fab", "ddn", "fmn", "deepfool")
    },
    "cw": partial(fa.attacks.cw, steps=5, searches=2),
    "square": partial(fa.attacks.square, queries=5),
}


def flat(x: Tensor) -> Tensor:
    return NET(x.flatten(1))


class Image(Tensor):
    """A tensor of a kind of its own."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_neither_a_subclass_of_tensor_nor_the_default_device_changes_what_is_found(attack: str) -> None:
    run = partial(ATTACKS[attack], flat, y=Y, threat=fa.L2(2.0))
    wanted, special = run(GRAY), run(GRAY.as_subclass(Image))
    with torch.device("meta"):
        again = run(GRAY)
    assert type(special.x_adv) is Tensor
    assert torch.equal(special.x_adv, wanted.x_adv)
    assert torch.equal(again.x_adv, wanted.x_adv)
