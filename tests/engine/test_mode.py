"""Calls hold a model in eval mode, within one another and in threads; then it is as it was."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.engine import Plain, prepare
from fastadv.engine.mapped import Mapped
from tests.engine.nets import convnet, images, mixed
from tests.zoo.state import State

X, Y = images(12)
THREAT = fa.Linf(0.1)


def evaluated(model: Any) -> AbstractContextManager[None]:
    return prepare(model).in_eval()


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


CALLS: dict[str, Callable[[nn.Module], object]] = {
    "pgd": lambda model: fa.attacks.pgd(model, X, Y, THREAT, steps=3),
    "frozen": lambda model: fa.attacks.pgd(fa.freeze(model), X, Y, THREAT, steps=3),
    "evaluate": lambda model: fa.evaluate(model, (X, Y), {"fgsm": partial(fa.attacks.fgsm, threat=THREAT)}),
    "smooth": lambda model: fa.certify.smooth(model, (X[:2], Y[:2]), sigma=0.2, n0=4, n=20, sound=False),
    "representation": lambda model: fa.models.representation(model)(X),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_each_call_leaves_the_model_as_it_was(call: str) -> None:
    model = mixed()
    before = State.of(model)
    CALLS[call](model)
    before.check(model)


@pytest.mark.parametrize("call", [CALLS["pgd"], lambda model: Plain(model).verdict(X)])
def test_an_error_of_the_model_leaves_its_modes(call: Callable[[nn.Module], object]) -> None:
    model = mixed()
    before, seen = modes(model), list[list[bool]]()

    def fail(part: nn.Module, args: Any) -> None:
        seen.append(modes(model))
        raise ValueError("broken")

    model.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="broken"):
        call(model)
    assert not any(map(any, seen))
    assert modes(model) == before


def test_a_part_that_never_trains_keeps_the_flag_that_it_was_made_with() -> None:
    class Fixed(nn.Linear):
        def train(self, mode: bool = True) -> "Fixed":
            return super().train(False)

    model = convnet().append(Fixed(5, 5))
    Plain(model).verdict(X)
    assert all(modes(model))


def test_an_error_of_eval_itself_leaves_its_modes() -> None:
    class Refuses(nn.Sequential):
        def train(self, mode: bool = True) -> "Refuses":
            super().train(mode)
            if not mode:
                raise NotImplementedError("no eval")
            return self

    model = Refuses(*convnet()).train()
    with pytest.raises(NotImplementedError, match="no eval"):
        Plain(model).verdict(X)
    assert all(modes(model))


def test_each_classifier_and_each_name_of_a_module_hold_it() -> None:
    model, own = mixed(), fa.Through(lambda x, t: t, THREAT, still=torch.clone)
    before, inner = modes(model), [Plain(model), fa.freeze(model)]
    names = model.forward, partial(model), nn.DataParallel(model), torch.compile(model)
    for held in (*inner, *names, *(Mapped(one, own, X, torch.arange(12)) for one in inner)):
        with evaluated(held):
            assert not any(modes(model))
        assert modes(model) == before
    with evaluated(lambda x: model(x)):  # of which nothing is known
        assert modes(model) == before


def test_calls_within_one_another_are_counted() -> None:
    model = mixed()
    before = modes(model)
    with evaluated(model):
        with evaluated(model), evaluated(model[0]), evaluated(nn.Sequential(model)):
            Plain(model).verdict(X)
            assert not any(modes(model))
        assert not any(modes(model))
    assert modes(model) == before


@pytest.mark.parametrize("around", [False, True])  # the other call holds a module around this one
def test_threads_are_counted(around: bool) -> None:
    """The second enters while all parts are in eval mode, and stays when the first has left."""
    model = mixed()
    before, entered, left = modes(model), threading.Event(), threading.Event()
    seen = list[bool]()

    def second() -> None:
        with evaluated(nn.Sequential(model) if around else model):
            entered.set()
            left.wait(10)
            seen.extend(modes(model))

    thread = threading.Thread(target=second)
    with evaluated(model):
        thread.start()
        entered.wait(10)
    left.set()
    thread.join()
    assert seen
    assert not any(seen)
    assert modes(model) == before


def test_a_frozen_script_has_no_mode() -> None:
    script = torch.jit.freeze(torch.jit.script(convnet().eval()))
    torch.testing.assert_close(Plain(script).verdict(X), script(X))
