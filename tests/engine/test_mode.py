"""The model is called as it is, in eval mode; flags, weights, gradients and hooks are then as before."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, prepare
from fastadv.engine.mapped import Mapped
from tests.engine.nets import Merges, convnet, images
from tests.zoo.state import State

X, Y = images(12)
THREAT = fa.Linf(0.1)


def evaluated(model: Any) -> AbstractContextManager[None]:
    return prepare(model).in_eval()


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


class Frozen(nn.Sequential):
    """Keeps its first BatchNorm in eval mode while it trains, as fine-tuned nets do."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self[1].eval()
        return self


def mixed() -> nn.Module:
    net = convnet().append(nn.Dropout(0.5)).eval()
    net[1].train()
    net[-1].train()
    return net


def hooked() -> nn.Module:
    net = convnet().train()
    net[3].register_forward_hook(lambda part, args, out: 1.5 * out)
    return net


def features() -> nn.Module:
    net, stored = convnet().train(), dict[str, Tensor]()
    net[0].register_forward_hook(lambda part, args, out: stored.update(first=out))
    net[1].register_forward_pre_hook(lambda part, args: (stored["first"],))
    net(X.flip(0))  # whose features it holds now
    return net


def tied() -> nn.Module:
    net = convnet().train()
    net.append(nn.Linear(5, 5)).append(nn.Linear(5, 5))
    net[-1].weight = net[-2].weight
    return net


def nested() -> nn.Module:
    part = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.3))
    return nn.Sequential(part, part, convnet()).train()


ODD: dict[str, Callable[[], nn.Module]] = {
    "training": lambda: convnet().train(), "eval": lambda: convnet().eval(),
    "dropout": lambda: convnet().append(nn.Dropout(0.5)).train(),
    "own train": lambda: Frozen(*convnet()).train(), "mixed": mixed, "hooks": hooked, "tied": tied,
    "features": features, "nested": nested, "merges": lambda: convnet().append(Merges(5, 5)).train(),
    "in eval by itself": lambda: nn.Sequential(Frozen(*convnet()), nn.Dropout(0.5)).train(),
}  # fmt: skip
CALLS: dict[str, Callable[[nn.Module], object]] = {
    "verdict": lambda model: Plain(model).verdict(X),
    "logits": lambda model: Plain(model)(X),
    "gradient": lambda model: Plain(model).input_gradient(X, Y),
    "jacobian": lambda model: Plain(model).jacobian(X, torch.eye(5)[Y][:, None]),
    "clean pass": lambda model: Plain(model).clean_pass(X).gradient(None, Y, "ce", None, True),  # type: ignore[union-attr]
    "pgd": lambda model: fa.attacks.pgd(model, X, Y, THREAT, steps=3),
    "square": lambda model: fa.attacks.square(model, X, Y, THREAT, queries=5),
    "deepfool": lambda model: fa.attacks.deepfool(model, X, Y, fa.L2(1.0), steps=2),
    "frozen": lambda model: fa.attacks.pgd(fa.freeze(model), X, Y, THREAT, steps=3),
    "bfloat16": lambda model: fa.freeze(model, "bf16").input_gradient(X, Y),
    "evaluate": lambda model: fa.evaluate(model, (X, Y), {"fgsm": partial(fa.attacks.fgsm, threat=THREAT)}),
    "smooth": lambda model: fa.certify.smooth(model, (X[:2], Y[:2]), sigma=0.2, n0=4, n=20, sound=False),
    "recipe": lambda model: fa.attacks.last_iterate(model, X, Y, THREAT, steps=2, step_size=0.1),
    "representation": lambda model: fa.models.representation(model)(X),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("odd", ["training", "mixed"])
def test_each_call_leaves_the_model_as_it_was(odd: str, call: str) -> None:
    model = ODD[odd]()
    before = State.of(model)
    CALLS[call](model)
    before.check(model)


@pytest.mark.parametrize("odd", ODD)
def test_odd_nets_are_asked_in_eval_mode_and_left_as_they_were(odd: str) -> None:
    model, copied = ODD[odd](), ODD[odd]().eval()
    before = State.of(model, values=odd != "merges")
    expected = copied(X).detach()
    torch.testing.assert_close(Plain(model).verdict(X), expected)
    torch.testing.assert_close(Plain(model).input_gradient(X, Y)[1], expected)
    torch.testing.assert_close(fa.freeze(model).verdict(X), expected)
    fa.attacks.pgd(model, X, Y, THREAT, steps=3)
    if odd != "merges":  # rounding, and versions
        before.check(model)
    assert modes(model) == before.facts["modes"]
    assert all(part.grad is None and part.requires_grad for part in model.parameters())
    with evaluated(model):
        torch.testing.assert_close(model(X).detach(), expected)


def test_an_error_of_the_model_leaves_its_modes() -> None:
    model = mixed()
    before, seen = modes(model), list[list[bool]]()

    def fail(part: nn.Module, args: Any) -> None:
        seen.append(modes(model))
        raise ValueError("broken")

    model.register_forward_pre_hook(fail)
    for call in ("verdict", "gradient", "pgd"):
        with pytest.raises(ValueError, match="broken"):
            CALLS[call](model)
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


def test_methods_partials_and_wrappers_are_their_module() -> None:
    model = convnet().train()
    for call in (model.forward, partial(model), nn.DataParallel(model), torch.compile(model)):
        with evaluated(call):
            assert not any(modes(model))
        assert all(modes(model))
    with evaluated(lambda x: model(x)):  # of which nothing is known
        assert all(modes(model))
    with evaluated(Plain(model)):
        assert not any(modes(model))


@pytest.mark.parametrize("prepared", [Plain, fa.freeze])
def test_each_classifier_holds_its_model(prepared: Callable[[nn.Module], Any]) -> None:
    model = mixed()
    before, inner = modes(model), prepared(model)
    own = fa.Through(lambda x, t: t, THREAT, still=torch.clone)
    for classifier in (inner, Mapped(inner, own, X, torch.arange(12))):
        with classifier.in_eval():
            assert not any(modes(model))
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
