"""`freeze(precision="auto")` searches in the precision that took least time on the first batch."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from fastadv.engine import compare
from fastadv.engine.frozen import Frozen
from fastadv.runs import processes
from tests.attacks.nets import Counted
from tests.engine.nets import convnet, images
from tests.refusals import refuses

X, Y = images()


class Clock:
    """Stands for `time`: a gradient takes 2 seconds in the `fastest` precision, 3 in any other."""

    def __init__(self, fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.directions: list[bool] = []
        real = Frozen.input_gradient

        def gradient(frozen: Frozen, *args: Any, **options: Any) -> Any:
            if frozen.options.precision != "auto":
                self.asked.append(frozen.options.precision)
                self.directions.append(options.get("direction", False))
                self.now += 2.0 if frozen.options.precision == fastest else 3.0
            return real(frozen, *args, **options)

        monkeypatch.setattr(Frozen, "input_gradient", gradient)
        monkeypatch.setattr(compare, "time", self)

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.slow
@pytest.mark.parametrize("fastest", ["fp32", "bf16"])
def test_the_fastest_precision_is_taken(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(fastest, monkeypatch)
    model = convnet().eval()
    frozen = fa.freeze(model, "auto")
    for _ in range(3):
        loss, logits, gradient = frozen.input_gradient(X, Y)
    assert all(clock.directions)  # as attacks ask
    assert clock.asked == ["fp32", "bf16"] * (1 + compare.ROUNDS)  # nothing after the first batch
    times = ", ".join(f"{name} {2000 if name == fastest else 3000}" for name in ("fp32", "bf16"))
    assert f"fastest precision: {fastest} (ms for 6 samples: {times.replace('000', 'e+03')})" in frozen.notes
    assert frozen.search_dtype == (torch.bfloat16 if fastest == "bf16" else torch.float32)
    expected = fa.freeze(model, fastest).input_gradient(X, Y)
    within = {"rtol": 1e-5, "atol": 0.01 if fastest == "bf16" else 1e-5}
    torch.testing.assert_close((loss, logits, gradient), expected, **within)
    assert torch.equal(frozen.verdict(X), model(X).detach())


def test_a_precision_that_cannot_be_had_is_left_out() -> None:
    model = convnet().eval()
    exact = fa.freeze(lambda x: model(x), "auto")  # a function has no weights to cast
    exact.settle(X)
    assert exact.exact


@pytest.mark.usefixtures("search_copy")
def test_passes_of_measuring_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock("fp32", monkeypatch)
    seen = Counter[str]()
    net = Counted(convnet().eval(), lambda n: seen.update(forward=n), lambda n: seen.update(backward=n))
    frozen = fa.freeze(net, "auto")
    for _ in range(2):
        frozen.input_gradient(X, Y)
        assert (frozen.forwards, frozen.backwards) == (seen["forward"], seen["backward"])
    assert seen["backward"] > 12


def test_the_random_state_stays() -> None:
    model = convnet().eval()
    frozen = fa.freeze(lambda x: model(x + torch.randn_like(x)), "auto")
    state = torch.get_rng_state()
    frozen.settle(X)
    assert torch.equal(torch.get_rng_state(), state)
    assert any(note.startswith("fastest precision") for note in frozen.notes)


def test_a_model_without_a_gradient() -> None:
    model = convnet().eval()

    def rounded(x: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = model(x)
        return out

    frozen = fa.freeze(rounded, "auto")
    assert torch.isfinite(fa.attacks.square(frozen, X, Y, fa.Linf(0.1), queries=5).x_adv).all()
    assert "precision not measured: the model has no gradient" in frozen.notes
    assert frozen.search.options.precision == "fp32"  # nor tries again


def test_processes_of_a_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = fa.freeze(convnet().eval(), "auto")
    monkeypatch.setattr(processes, "world", lambda: 2)
    refuses("precision: expected one process for 'auto', got a group of 2", frozen.input_gradient, X, Y)


def test_options() -> None:
    frozen = fa.freeze(convnet().eval(), "auto")
    assert fa.freeze(frozen) is frozen
    assert frozen(X[:0]).shape == (0, 5)
    assert frozen.input_gradient(X[:0], Y[:0])[1].shape == (0, 5)
    assert not any("fastest" in note for note in frozen.notes)
