"""Batches and models of odd kinds: attacked like others, or refused in words, by every kind of attack."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastadv import attacks, freeze
from fastadv.errors import InputError
from fastadv.threat import L2

X, Y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.long)
BUDGETS = {
    **{name: {"steps": 5} for name in ("pgd", "apgd", "fab", "ddn", "fmn", "deepfool")},
    "cw": {"steps": 5, "searches": 2},
    "square": {"queries": 5},
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


class Image(Tensor):
    """A tensor of a kind of its own."""


ODD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (lambda: X.to_sparse(), "sparse_coo"),
    "mkldnn": (lambda: X.to_mkldnn(), "mkldnn"),
    "nested": (lambda: torch.nested.nested_tensor([X[0], X[1]]), "nested"),
    "meta": (lambda: X.to("meta"), "meta"),
}


@pytest.mark.parametrize("attack", ["pgd", "ddn", "square"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_batches_are_refused_in_words(kind: str, attack: str) -> None:
    make, word = ODD[kind]
    with pytest.raises(InputError, match=f"^x: expected .*{word}"):
        getattr(attacks, attack)(net(), make(), Y, L2(0.5), **BUDGETS[attack])
    with pytest.raises(InputError, match=f"^x: expected .*{word}"):
        freeze(net())(make())


@pytest.mark.parametrize("attack", ["pgd", "apgd", "fab", "ddn", "fmn", "square"])
def test_a_subclass_of_tensor_is_attacked_like_its_values(attack: str) -> None:
    found = [
        getattr(attacks, attack)(net(), x, Y, L2(2.0), **BUDGETS[attack]) for x in (X, X.as_subclass(Image))
    ]
    assert type(found[1].x_adv) is Tensor
    assert torch.equal(found[0].x_adv, found[1].x_adv)


@pytest.mark.parametrize("attack", ["pgd", "apgd", "fab", "ddn", "fmn", "cw", "deepfool", "square"])
def test_the_default_device_is_not_that_of_the_batch(attack: str) -> None:
    model, given = net(), BUDGETS[attack]
    out = getattr(attacks, attack)(model, X, Y, L2(2.0), **given)
    with torch.device("meta"):
        again = getattr(attacks, attack)(model, X, Y, L2(2.0), **given)
    assert again.x_adv.device.type == "cpu"
    assert torch.equal(again.x_adv, out.x_adv)
