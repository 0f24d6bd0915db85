"""Batches of odd kinds, and outputs that are no logits [B, K]: taken, or refused in words."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import prepare
from fastadv.errors import InputError
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


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"boxes": X, "labels": X}], "boxes; detectors are not attacked"),
        ({"out": X}, 'returns the tensor "out"'),
        ({"logits": X}, "adapt"),
        (X.long(), "int64"),
        (X[:2], r"\(2, 3, 8, 8\)"),
    ],
)
def test_what_is_no_tensor_of_rows_is_refused_by_name(outputs: object, message: str) -> None:
    refuses(message, prepare(lambda x: outputs, outputs="any"), X)


@pytest.mark.parametrize("shape", [(6, 1), (6,), (1, 1), (1,), ()])
@pytest.mark.parametrize("bounded", [torch.sigmoid, torch.zeros_like, None])
def test_one_output_of_classes_is_told_what_it_is(bounded: Any, shape: tuple[int, ...]) -> None:
    def model(x: Tensor) -> Tensor:
        z = x.flatten(1).sum(1)
        return (3 + z if bounded is None else bounded(z).clamp(0, 1)).view(shape)

    x = X[: 6 if 6 in shape else 1]
    logit = r"at least two classes.*return torch.cat\(\[torch.zeros_like\(z\), z\]"
    refuses(logit, fa.attacks.fgsm, model, x, torch.zeros(len(x)).long(), fa.Linf(0.1))
    with pytest.raises(InputError, match=logit) as raised:
        fa.freeze(model)(x)
    assert ("torch.cat([1 - p, p], dim=1)" in str(raised.value)) is (bounded is not None)


def test_a_norm_of_the_batch_is_not_given_a_row_twice() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="more than 1 value"):
        fa.engine.Plain(net).verdict(X[:1])


def test_several_logits_are_not_one() -> None:
    with pytest.raises(InputError, match=r"one logit for each of 6 samples.*labels \[B, K\]"):
        fa.attacks.pgd(DENSE, X, torch.ones(6), fa.Linf(0.1), criterion=fa.attacks.Signs())


GRAY, Y, NET = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.long), nn.Linear(16, 3).eval()
ATTACKS: dict[str, Callable[..., Any]] = {
    **{
        name: partial(getattr(fa.attacks, name), steps=5) for name in ("pgd", "fab", "ddn", "fmn", "deepfool")
    },
    "cw": partial(fa.attacks.cw, steps=5, searches=2),
    "square": partial(fa.attacks.square, queries=5),
}
ODD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (GRAY.to_sparse, "sparse_coo"),
    "mkldnn": (GRAY.to_mkldnn, "mkldnn"),
    "nested": (lambda: torch.nested.nested_tensor([GRAY[0], GRAY[1]]), "nested"),
    "meta": (lambda: GRAY.to("meta"), "meta"),
}


def flat(x: Tensor) -> Tensor:
    return NET(x.flatten(1))


@pytest.mark.parametrize("kind", ODD)
def test_odd_batches_are_refused_in_words(kind: str) -> None:
    make, word = ODD[kind]
    for attack in (ATTACKS["pgd"], ATTACKS["square"]):
        refuses(f"^x: expected .*{word}", attack, flat, make(), Y, fa.L2(0.5))
    refuses(f"^x: expected .*{word}", fa.freeze(nn.Sequential(nn.Flatten(), NET)), make())


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
