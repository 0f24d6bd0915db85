"""A settled Frozen does not change, and leaves once what fails."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from tests.engine.nets import convnet, images


def attributes(frozen: fa.Frozen) -> Iterator[tuple[str, int]]:
    for name, value in vars(frozen).items():
        if name not in ("forwards", "backwards", "compared"):
            yield name, id(value)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"eot": 2}, {"precision": "auto"}])
def test_nothing_is_replaced_once_it_has_settled(options: dict[str, Any]) -> None:
    frozen = fa.freeze(convnet().eval(), **options)
    x = images()[0]
    assert frozen.settle(x * torch.nan) == frozen.settled
    assert frozen.settle(x)
    assert frozen.settled
    before, search, form = dict(attributes(frozen)), dict(vars(frozen.search)), frozen.search.form
    for count in (6, 1, 40):
        given, labels = images(count)
        frozen(given)
        frozen.input_gradient(given, labels)
        frozen.jacobian(given, torch.eye(5).expand(count, 5, 5))
        fa.attacks.pgd(frozen, given, labels, fa.Linf(0.1), steps=2)
        frozen.settle(given)
    assert dict(attributes(frozen)) == before
    assert frozen.search.form is form
    changed = {name for name, value in vars(frozen.search).items() if value is not search[name]}
    assert changed <= {
        "_rows_apart",
        "compared_forwards",
        "compared_backwards",
    }  # the first is found out once, for the first large batch


def test_an_error_that_nothing_mends_leaves_the_precision_to_come() -> None:
    def refuse(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0].requires_grad and bool(given[0].isnan().any()):
            raise ValueError("not a number")

    model, (x, y) = convnet().eval(), images()
    model.register_forward_pre_hook(refuse)
    frozen = fa.freeze(model, "bf16")
    with pytest.raises(ValueError, match="not a number"):
        frozen.input_gradient(x * torch.nan, y)
    frozen(x)
    assert frozen.search_dtype is torch.bfloat16


def test_what_fails_is_left_once_and_noted_once() -> None:
    """In the order of the list: the layout first, and what is not at fault stays."""

    class Dense(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self:
                x = layer(x)
                if x.ndim == 4 and not x.is_contiguous():
                    raise RuntimeError("dense activations alone")
            return x

    frozen = fa.freeze(Dense(*convnet().eval()))
    x, y = images()
    for _ in range(3):
        frozen.input_gradient(x, y)
    notes = [note for note in frozen.notes if note.startswith("not ")]
    assert notes == ["not channels-last, in which the model failed (dense activations alone)"]
    assert "fold" in frozen.search.form.rewriting.names
