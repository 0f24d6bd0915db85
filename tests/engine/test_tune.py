"""`freeze(tune=True)` searches in the way that took least time on the first batch."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import tune
from fastadv.engine.frozen import Frozen
from fastadv.engine.options import Options
from fastadv.errors import InputError
from fastadv.runs import processes
from tests.attacks.nets import Counted
from tests.engine.nets import convnet, images

X, Y = images()
WAYS = ("bf16", "fp32", "fp32 as given")


class Compiled(nn.Module):
    """Stands for a compiled module."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._orig_mod = original

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._orig_mod(x)
        return out


class Clock:
    """Stands for `time`: a gradient takes the seconds that `costs` gives its way."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.now, self.costs, self.asked = 0.0, costs, [""]
        self.directions: list[bool] = []

    def perf_counter(self) -> float:
        return self.now

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Frozen.input_gradient

        def gradient(frozen: Frozen, *args: Any, **options: Any) -> Any:
            if not frozen.options.tune:
                name = tune._name(frozen.options)
                self.asked.append(name)
                self.directions.append(options.get("direction", False))
                self.now += self.costs[name]
            return real(frozen, *args, **options)

        monkeypatch.setattr(Frozen, "input_gradient", gradient)
        monkeypatch.setattr(tune, "time", self)
        monkeypatch.setattr(torch, "compile", Compiled)


def costs(fastest: str, compiled: float) -> dict[str, float]:
    taken = {way: 2.0 if way == fastest else 3.0 for way in WAYS}
    return taken | {f"{way} compiled": compiled for way in WAYS}


@pytest.mark.parametrize("compiled", [1.0, 2.5])
@pytest.mark.parametrize("fastest", WAYS)
def test_the_fastest_way_is_taken(fastest: str, compiled: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(costs(fastest, compiled))
    clock.watch(monkeypatch)
    model, calls = convnet().eval(), 3
    frozen = fa.freeze(model, "bf16", tune=True)
    for _ in range(calls):
        loss, logits, gradient = frozen.input_gradient(X, Y)
    asked = clock.asked[1:]
    assert all(clock.directions)  # as attacks ask
    # the compiled form of the fastest alone, and nothing after the first batch
    tried = {*WAYS, f"{fastest} compiled"}
    assert set(asked) == tried
    assert len(asked) == (1 + tune.ROUNDS) * (len(tried) + 1)  # the fastest is timed again
    taken = f"{fastest} compiled" if compiled < 2 else fastest
    (note,) = [note for note in frozen.notes if note.startswith("tuned")]
    assert note.startswith(f"tuned: {taken} (ms for 6 samples: bf16 ")
    assert f"{fastest} compiled {1000 * compiled:.3g}" in note
    assert f"{fastest} {2000.0:.3g}" in note

    assert isinstance(frozen.search.form.model, Compiled) == (compiled < 2)
    assert frozen.exact == (taken == "fp32 as given")
    assert frozen.search_dtype == (torch.bfloat16 if fastest == "bf16" else torch.float32)
    same = fa.freeze(model, "bf16" if fastest == "bf16" else "fp32")
    expected = same.input_gradient(X, Y)
    within = {"rtol": 1e-5, "atol": 0.01 if fastest == "bf16" else 1e-5}
    for ours, theirs in zip((loss, logits, gradient), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **within)
    assert torch.equal(frozen.verdict(X), model(X).detach())


@pytest.mark.parametrize("fastest", ["fp32", "bf16"])
def test_auto_is_the_fastest_precision(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the model's own and bfloat16 on a CPU, neither compiled; what cannot be had is left out."""
    clock = Clock(costs(fastest, 1.0))
    clock.watch(monkeypatch)
    frozen = fa.freeze(convnet().eval(), "auto")
    frozen.settle(X)
    assert set(clock.asked[1:]) == {"fp32", "bf16"}
    assert frozen.search_dtype == (torch.bfloat16 if fastest == "bf16" else torch.float32)
    assert any(note.startswith(f"tuned: {fastest} (ms for 6 samples") for note in frozen.notes)
    if fastest == "fp32":
        exact = fa.freeze(convnet().double().eval(), "auto", fold=False)
        exact.settle(X.double())
        assert exact.search_dtype == torch.float64


def test_what_was_asked_for_is_a_way_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled search is timed beside one that is not, and so is what both twins share."""
    clock = Clock(costs("fp32", 2.5))
    clock.watch(monkeypatch)
    frozen = fa.freeze(convnet().eval(), "bf16", compile=True, tune=True)
    frozen.settle(X)
    assert set(clock.asked[1:]) == {*WAYS, "fp32 compiled"}
    assert not isinstance(frozen.search.form.model, Compiled)


def test_passes_of_tuning_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(costs("fp32", 9.0)).watch(monkeypatch)
    seen = Counter[str]()
    net = Counted(convnet().eval(), lambda n: seen.update(forward=n), lambda n: seen.update(backward=n))
    frozen = fa.freeze(net, tune=True)
    for _ in range(2):
        frozen.input_gradient(X, Y)
        assert (frozen.forwards, frozen.backwards) == (seen["forward"], seen["backward"])
    assert seen["backward"] > 12


def test_an_attack_tunes_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(costs("fp32 as given", 9.0))
    clock.watch(monkeypatch)
    model = convnet().eval()
    y = model(X).argmax(1)
    run = {"steps": 3, "seed": 1, "stop_early": False}
    frozen = fa.freeze(model, tune=True)
    found = fa.attacks.pgd(frozen, X, y, fa.Linf(0.1), **run)
    assert any("tuned: fp32 as given (ms for 6 samples" in note for note in frozen.notes)
    assert frozen.exact
    plain = fa.attacks.pgd(fa.freeze(model, fold=False), X, y, fa.Linf(0.1), **run)
    assert torch.equal(found.x_adv, plain.x_adv)
    count = len(clock.asked)
    fa.attacks.pgd(frozen, X[:2], y[:2], fa.Linf(0.1), **run)
    # no more tuning: one gradient for each step
    assert len(clock.asked) == count


def test_the_random_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Compiled)
    model = convnet().eval()
    frozen = fa.freeze(lambda x: model(x + torch.randn_like(x)), tune=True)
    state = torch.get_rng_state()
    frozen.settle(X)
    assert torch.equal(torch.get_rng_state(), state)
    assert any(note.startswith("tuned") for note in frozen.notes)


def test_a_model_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Compiled)
    model = convnet().eval()

    def rounded(x: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = model(x)
        return out

    frozen = fa.freeze(rounded, tune=True)
    found = fa.attacks.square(frozen, X, Y, fa.Linf(0.1), queries=5)
    assert torch.isfinite(found.x_adv).all()
    assert "not tuned: the model has no gradient" in frozen.notes
    assert not frozen.search.options.tune  # nor tries again


def test_processes_of_a_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = fa.freeze(convnet().eval(), tune=True)
    monkeypatch.setattr(processes, "world", lambda: 2)
    with pytest.raises(InputError, match="tune: expected one process, got a group of 2"):
        frozen.input_gradient(X, Y)


@pytest.mark.parametrize(("eot", "ways"), [(1, ["fp32 compiled", "fp32 captured"]), (2, ["fp32 compiled"])])
def test_a_mean_of_passes_is_not_captured(eot: int, ways: list[str]) -> None:
    on_a_gpu: Any = SimpleNamespace(is_cuda=True)
    assert [tune._name(options) for options in tune._passes(Options(eot=eot), on_a_gpu)] == ways


def test_options() -> None:
    model = convnet().eval()
    frozen = fa.freeze(model, tune=True)
    assert frozen.describe() == fa.freeze(model).describe() | {"tune": True}
    assert fa.freeze(frozen) is frozen
    assert fa.freeze(frozen, "bf16").options.tune
    assert fa.freeze(frozen, tune=False).describe() == fa.freeze(model).describe()
    for wrong in (2.5, "long"):
        with pytest.raises(InputError, match="True or False for tune"):
            fa.freeze(model, tune=wrong)  # type: ignore[arg-type]
    assert frozen(X[:0]).shape == (0, 5)
    assert frozen.input_gradient(X[:0], Y[:0])[1].shape == (0, 5)
    assert not any("tuned" in note for note in frozen.notes)
