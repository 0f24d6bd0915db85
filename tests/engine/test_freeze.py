"""freeze: its options, its check of itself, and the gradient."""

import copy
import ctypes
import pickle
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.engine import Frozen, freeze
from fastadv.engine.freeze import _keep_pages
from tests.engine.nets import convnet, images

pytestmark = pytest.mark.usefixtures("search_copy")
X, Y = images(9, 1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda frozen: pickle.loads(pickle.dumps(frozen))])
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_is_frozen_anew(used: bool, copied: Callable[[Frozen], Frozen]) -> None:
    model = convnet().eval()
    frozen = freeze(model, "bf16")
    if used:
        frozen.input_gradient(X, Y)
    twin = copied(frozen)
    expected, verdict = frozen.input_gradient(X, Y), frozen.verdict(X)
    assert (twin.options, twin.forwards, twin.prepared) == (frozen.options, 0, False)
    with torch.no_grad():
        model[0].weight.zero_()  # of the caller, not of the copy
    # to the bit, so it is folded as well
    assert all(torch.equal(*both) for both in zip(twin.input_gradient(X, Y), expected, strict=True))
    assert torch.equal(twin.verdict(X), verdict)
    assert twin.notes == frozen.notes


def test_a_frozen_model_is_returned_where_the_options_are_its_own() -> None:
    for options in ({}, {"precision": "bf16"}):
        frozen = freeze(convnet(), **options)  # type: ignore[arg-type]
        assert freeze(frozen) is frozen
        assert freeze(frozen, **options) is frozen  # type: ignore[arg-type]
        assert freeze(frozen, cuda_graph=None, compile=None) is frozen


def test_a_frozen_model_is_frozen_again_with_other_options() -> None:
    model = convnet()
    frozen = freeze(model)
    rough = freeze(frozen, "bf16")
    assert rough is not frozen
    assert rough.describe() == {"precision": "bf16", "compile": False}
    assert rough.source is model
    assert rough.input_gradient(X, Y)[2].isfinite().all()
    assert "folded 2 BatchNorm" in rough.notes
    assert next(rough.search.model.parameters()).dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert freeze(rough, "fp32").describe() == frozen.describe()
    with torch.no_grad():
        model[-1].bias.add_(5)
    torch.testing.assert_close(rough.verdict(X), model.eval()(X).detach())


def test_losses_without_labels() -> None:
    frozen = freeze(convnet())
    by_target = frozen.input_gradient(X, None, targets=Y)[2]
    torch.testing.assert_close(by_target, frozen.input_gradient(X, (Y + 1) % 5, targets=Y)[2])
    assert frozen.input_gradient(X, None, lambda logits, y, targets: logits.pow(2).sum(1))[2].abs().sum() > 0


def test_labels_made_in_inference_mode() -> None:
    def product(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return logits.gather(1, y[:, None]).squeeze(1) * logits.gather(1, targets[:, None]).squeeze(1)

    frozen = freeze(convnet())
    with torch.inference_mode():
        y, targets = Y + 0, (Y + 1) % 5
    expected = frozen.input_gradient(X, Y, product, (Y + 1) % 5)
    assert all(map(torch.equal, frozen.input_gradient(X, y, product, targets), expected))


def test_a_direction_stays_in_the_precision_of_the_search() -> None:
    x, y = images()
    for precision, dtype, expected in (
        ("bf16", torch.float32, torch.bfloat16),
        ("bf16", torch.float64, torch.float64),
        ("fp32", torch.float32, torch.float32),
    ):
        frozen = fa.freeze(convnet().eval(), precision)  # type: ignore[arg-type]
        assert frozen.input_gradient(x.to(dtype), y, direction=True)[2].dtype == expected
        assert frozen.input_gradient(x.to(dtype), y)[2].dtype == dtype


VARIABLES = {
    "FASTADV_KEEP_PAGES": "0",
    "MALLOC_TRIM_THRESHOLD_": "9",
    "GLIBC_TUNABLES": "glibc.malloc.trim=9",
}


@pytest.mark.parametrize("name", [None, *VARIABLES])
def test_the_first_freeze_keeps_pages_unless_a_variable_is_set(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    if name is not None:
        monkeypatch.setenv(name, VARIABLES[name])
    options: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *option: options.append(option))
    monkeypatch.setattr(ctypes, "CDLL", lambda path: library)
    _keep_pages.cache_clear()
    for _ in range(2):
        fa.freeze(convnet().eval())
    assert options == ([(-3, 1 << 28), (-1, 1 << 30)] if name is None else [])
