"""A plain call searches the model as given: the fewest passes, all of them counted, and what it refuses."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import bim, fgsm, pgd
from fastadv.engine import Frozen, Plain, prepare
from fastadv.engine.prepare import WORTH, WORTH_ON_GPU, gains
from fastadv.errors import InputError
from tests.attacks.nets import Noisy, convnet, images, labels, mlp
from tests.engine.nets import around

X = images(6, (2, 8, 8), dtype=torch.float32)
Y = torch.zeros(6, dtype=torch.long)
EOT = 3
rows: list[int] = []


def eval_convnet() -> nn.Module:
    return convnet().eval()


def watched() -> nn.Module:
    """A net whose passes are in `rows`."""
    rows.clear()
    return around(lambda net, x: rows.append(len(x)) or net(x), eval_convnet)()  # type: ignore[func-returns-value]


def test_the_fewest_passes() -> None:
    """FGSM passes twice; ten steps of PGD pass thirteen times, and twelve from x itself."""
    model, inside = watched(), fa.Linf(1e-5)
    y = labels(model.net, X)
    for attack, more, passes in ((fgsm, {}, 2), (pgd, {"steps": 10}, 13), (bim, {"steps": 10}, 12)):
        rows.clear()
        out = attack(model, X, y, inside, **more)  # type: ignore[operator]
        assert rows == [6] * passes
        assert (out.forwards, out.backwards) == (sum(rows), 6 * more.get("steps", 1))
        assert not out.success.any()


def test_samples_that_are_wrong_already_take_no_pass_of_their_own() -> None:
    model = convnet().eval()
    y = labels(model, X)
    y[3:] = (y[3:] + 1) % 4  # half of them: the pass at x is still worth its backward
    out = bim(model, X, y, fa.Linf(1e-5), steps=1)
    assert (out.forwards, out.backwards) == (12 + 3, 6)
    y[2] = (y[2] + 1) % 4
    out = bim(model, X, y, fa.Linf(1e-5), steps=1)
    assert (out.forwards, out.backwards) == (12 + 2 + 2, 2)


def test_a_call_says_how_much_work_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """But where it is told whether to freeze, or given what was prepared."""
    works, model, x = list[int](), nn.Sequential(mlp(), nn.BatchNorm1d(3)).double().eval(), images(64)
    # the module, whose name is a function in its package
    monkeypatch.setattr(sys.modules["fastadv.engine.prepare"], "gains", lambda _, work: works.append(work))
    for given, options in (
        (model, {"steps": 3}), (model, {"steps": 2, "restarts": 4}), (model, {"steps": 3, "freeze": False}),
        (Plain(model), {"steps": 3}),
    ):  # fmt: skip
        pgd(given, x, labels(model, x), fa.Linf(1e-6), **options)  # type: ignore[arg-type]
    assert works == [3 * 64, 4 * 2 * 64]


def test_what_lies_on_a_gpu_freezes_by_itself_for_more_work() -> None:
    model, there, linear = convnet().eval(), convnet().to("meta").eval(), nn.Sequential(nn.Linear(4, 4))
    bare = nn.Conv2d(2, 4, 3)
    bare.weight = None  # type: ignore[assignment]
    bare.bias = None
    normed = nn.Sequential(*linear, nn.BatchNorm1d(4))
    for net, least in ((model, WORTH), (normed, WORTH), (bare, WORTH), (there, WORTH_ON_GPU)):
        assert not gains(net, least - 1)
        assert isinstance(prepare(net, work=least), Frozen)
    for net in (linear, lambda x: model(x)):
        assert isinstance(prepare(net, work=WORTH_ON_GPU), Plain)
    assert isinstance(prepare(linear, freeze=True), Frozen)
    assert isinstance(prepare(there, work=WORTH_ON_GPU, freeze=False), Plain)
    frozen = fa.freeze(model)
    assert prepare(frozen, work=WORTH) is frozen


def test_gradients_at_x_in_half_precision_are_those_that_the_model_has() -> None:
    model, x = around(lambda net, x: net(x * 1e-8), eval_convnet)(), X.half()
    out = fgsm(model, x, labels(model, X), fa.Linf(0.1))
    assert not out.zero_gradient.any()
    assert (out.x_adv != x).double().mean() > 0.9


@pytest.mark.parametrize("attack", [fgsm, bim])
def test_all_passes_are_counted_where_a_randomized_model_gives_two_answers(attack):
    rows.clear()
    out = attack(Noisy(0.1, rows.append, eval_convnet()), X, labels(eval_convnet(), X), fa.Linf(1e-5))
    assert out.flags[0].startswith("denied: ")
    assert out.forwards == sum(rows)


@pytest.mark.parametrize("given", [lambda model: model, Plain, fa.freeze])
def test_the_last_point_is_scored_by_the_mean_of_all_passes(given: Callable[[Any], Any]) -> None:
    """One verdict on a randomized model says little; those of the search are means."""
    rows.clear()
    model = Noisy(0.0, lambda count: rows.append(count), eval_convnet())
    out = pgd(given(model), X, labels(model.net, X), fa.Linf(1e-5), steps=2, eot=EOT)
    assert not out.success.any()
    assert out.forwards == sum(rows) == 6 * (2 + 2 * EOT + EOT + 1)  # a second look at x


MANY: dict[str, Callable[[Plain, Tensor], object]] = {
    "verdicts": lambda plain, y: [plain.verdict(X.clone()) for _ in range(9)],
    "steps": lambda plain, y: bim(plain, X, y, fa.Linf(1e-5), steps=9, stop_early=False),
}


@pytest.mark.parametrize("many", MANY)
def test_a_model_that_writes_into_x_only_later_is_refused(many: str) -> None:
    """In its first pass, of a copy, it would have been given copies from then on."""
    model, calls = convnet().eval(), list[int]()

    def halves(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) == 5:
            with torch.no_grad():
                x.mul_(0.5)
        return model(x)

    with pytest.raises(InputError, match="writes into it"):
        MANY[many](Plain(halves), labels(model, X))


@pytest.mark.slow
def test_an_autocast_around_an_attack_changes_nothing() -> None:
    model = mlp(dtype=torch.float32)
    for attack, threat, dtype in ((pgd, fa.Linf(0.1), torch.float32), (fgsm, fa.L1(1.0), torch.float16)):
        x = images(6, dtype=dtype)
        y = labels(model, x.float())
        wanted = attack(model, x, y, threat)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(attack(model, x, y, threat).x_adv, wanted.x_adv)
