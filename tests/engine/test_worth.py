"""What is compiled without being asked for: work that takes a GPU a minute, counted."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv import _waiting
from fastadv.attacks.auto.run import Component
from fastadv.engine import Prepared, prepare, worth
from fastadv.engine.plain import Plain
from fastadv.engine.worth import operations
from tests.engine.nets import convnet
from tests.logged import Logged

ROW = torch.rand(1, 2, 8, 8)
X = torch.rand(4, 2, 8, 8)
CLASSES = convnet()(X).shape[1]
Y = torch.zeros(4, dtype=torch.int64)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the CPU for a GPU, whose minute is 10,000 gradients of `convnet`."""
    monkeypatch.setattr(worth, "MINUTE", 10_000 * operations(Plain(convnet()), ROW))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with patch.object(_waiting, "AT_ONCE", set[str]()):
        yield


def compiles(prepared: Prepared) -> bool | None:
    return isinstance(prepared, fa.Frozen) and prepared.options.compile


def test_operations_are_those_of_products_forward_and_backward() -> None:
    assert operations(Plain(nn.Linear(3, 4)), torch.rand(1, 3)) == 2 * 2 * 3 * 4
    assert operations(Plain(lambda x: x.floor()), torch.rand(1, 3)) == 0  # and no gradient


def test_a_minute_of_work_is_compiled(on_gpu: None) -> None:
    frozen = fa.freeze(convnet())
    for work, expected in ((9_999, None), (10_000, True), (20_000, True)):
        assert compiles(prepare(frozen, work=work, rows=lambda: X)) is expected
    assert compiles(prepare(frozen, work=20_000)) is None  # of rows that nobody knows
    assert compiles(prepare(fa.freeze(convnet(), compile=False), work=20_000, rows=lambda: X)) is False
    assert compiles(prepare(convnet(), freeze=True, work=20_000, compile=False, rows=lambda: X)) is None


def test_nothing_is_compiled_by_itself_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worth, "MINUTE", 1)
    assert compiles(prepare(fa.freeze(convnet()), work=1 << 30, rows=lambda: X)) is None


@pytest.mark.slow
def test_calls_decide_by_their_own_work(on_gpu: None, logged: Logged) -> None:
    frozen = fa.freeze(convnet())
    for steps, compiled in ((40, 0), (3000, 1), (40, 1)):
        fa.attacks.pgd(frozen, X, Y, fa.Linf(0.01), steps=steps)
        assert logged.text.count("compiling") == compiled


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"precision": "bf16"}, {"compile": True}])
def test_options_go_with_the_call(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model, seen, ((name, value),) = convnet(), list[Any](), asked.items()
    y = Plain(model).verdict(X).argmax(1)

    def attack(model: Any, x: Tensor, y: Tensor, ids: Tensor) -> Any:
        seen.append(model)
        return fa.attacks.pgd(model, x, y, fa.Linf(0.01), steps=2, ids=ids)

    fa.evaluate(model, (X, y), {"own": attack}, indicators=False, **asked)
    monkeypatch.setattr(
        Component, "bound", lambda part, task, seed: partial(attack, task.classifier, X, y, torch.arange(4))
    )
    fa.attacks.autoattack(model, X, y, fa.Linf(0.01), version=["apgd-ce"], indicators=False, **asked)
    assert [getattr(each.options, name) for each in seen] == [value] * 2
    base = fa.data.ImageSet(X, y, CLASSES, "noise")
    made = fa.data.construct.random_target(model, base, threat=fa.L2(0.1), steps=2, **asked)
    assert made.card["config"]["model"]["frozen"][name] == value
    with pytest.raises(fa.InputError, match="precision, compile: expected neither with freeze=False"):
        fa.evaluate(model, (X, y), {"own": attack}, freeze=False, **asked)
    with pytest.raises(fa.InputError, match="or a model of ids or whole batches"):
        fa.attacks.autoattack(model, X, y, fa.Linf(0.01), whole_batches=True, **asked)


@pytest.mark.parametrize("options", [{"freeze": False}, {"size": 4}, {}])
def test_compile_false_goes_with_all_options(options: dict[str, Any]) -> None:
    frozen = fa.freeze(convnet(), compile=True)
    for model in (frozen, frozen.source):
        assert not compiles(prepare(model, compile=False, **options))


def test_to_count_draws_from_no_seed_of_the_caller() -> None:
    before = torch.get_rng_state()
    operations(Plain(lambda x: x.flatten(1) + torch.rand(1, 1)), ROW)
    assert torch.equal(torch.get_rng_state(), before)
