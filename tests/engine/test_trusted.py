"""What was compared is trusted for what is like it: rows, values, threads, passes; and for a while."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import search_copy
from fastadv.engine.frozen import DENIED
from fastadv.engine.guard import Trusted, allowance
from tests.engine.planted import Change, Net, X, apart, convolved, needs_onednn, thinly
from tests.engine.rewritten import answers

pytestmark = pytest.mark.usefixtures("small_ones_too")


def wrong(patch: pytest.MonkeyPatch, change: Change, gradient: bool = False) -> None:
    """Plant a mistake into the forward pass of a layer, where a gradient is followed or where none is."""
    convolved(lambda x, out: change(out) if x.requires_grad == gradient else out)(patch)


def check(frozen: fa.Frozen, x: Tensor, most: float = 1e-3, model: nn.Module | None = None) -> None:
    y = torch.arange(len(x)) % 5
    logits, gradient = answers(Net().eval() if model is None else model, x, y)
    assert apart(frozen(x), logits) < most
    assert apart(frozen.input_gradient(x, y)[2], gradient) < most


class Normalized(Net):
    """Its logits do not grow with x."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(super().forward(x))


@needs_onednn
@pytest.mark.slow
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("kind", [Net, Normalized])
def test_larger_values_are_compared_anew(kind, gradient, monkeypatch):
    wrong(monkeypatch, lambda out: torch.where(out > 30, out * 0.3, out), gradient)
    model = kind().eval()
    frozen = fa.freeze(model)
    check(frozen, X, model=model)
    assert not any(note.startswith("not ") for note in frozen.notes)
    check(frozen, 3000 * X, model=model)
    assert any(note.startswith("not winograd") for note in frozen.notes)


@needs_onednn
@pytest.mark.slow
def test_a_pass_that_was_wrong_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, forward = list[int](), Net.forward
    monkeypatch.setattr(Net, "forward", lambda self, x: rows.append(len(x)) or forward(self, x))
    wrong(monkeypatch, lambda out: out * 0.3, gradient=True)
    frozen = fa.freeze(Net().eval())
    frozen.input_gradient(X, torch.arange(24) % 5)
    assert any(note.startswith("not winograd") for note in frozen.notes)
    assert frozen.forwards == sum(rows)


@needs_onednn
@pytest.mark.slow
def test_other_numbers_of_threads_are_compared_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[len(gradient) // 2 :] *= float(threads[0] == 1)
        return gradient

    threads = [1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    thinly(change)(monkeypatch)
    frozen = fa.freeze(Net().eval())
    check(frozen, X)
    assert not any(note.startswith("not ") for note in frozen.notes)
    threads[0] = 2
    check(frozen, X)
    assert any(note.startswith("not thin") for note in frozen.notes)


@needs_onednn
@pytest.mark.slow
def test_the_verdict_is_held_against_the_losses_of_the_search(monkeypatch, logged):
    """What turned wrong after it was compared is found by the next attack at the latest."""
    off: list[int] = []
    wrong(monkeypatch, lambda out: out * 0.2 if off else out, gradient=True)
    frozen = fa.freeze(Net().eval())
    y = frozen.verdict(X).argmax(1)

    def attack() -> None:
        fa.attacks.pgd(frozen, X, y, fa.Linf(0.001), steps=3)

    attack()
    assert DENIED not in frozen.notes
    off.append(1)
    attack()
    assert DENIED in frozen.notes
    attack()
    assert any(note.startswith("not winograd") for note in frozen.notes)
    assert len(logged.records) == 2
    logged.records.clear()
    attack()
    assert not logged.records


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_a_right_search_is_not_denied(precision: Any, loss: Any) -> None:
    frozen = fa.freeze(Net().eval(), precision)
    y = frozen.verdict(X).argmax(1)
    fa.attacks.pgd(frozen, X, y, fa.Linf(0.05), steps=5, loss=loss)
    assert not any(note == DENIED or note.startswith("not ") for note in frozen.notes)


@needs_onednn
@pytest.mark.slow
@pytest.mark.parametrize(("share", "eot", "denied"), [(1.9, 1, False), (2.1, 1, True), (2.1, 2, False)])
def test_losses_may_differ_twice_as_far_as_logits(share: float, eot: int, denied: bool) -> None:
    frozen = fa.freeze(Net().eval(), eot=eot)
    verdict = frozen.verdict(X)
    frozen(X)
    frozen.hold(share * allowance(verdict, [torch.float32]), verdict)
    assert (DENIED in frozen.notes) == denied


@needs_onednn
@pytest.mark.slow
def test_a_point_outside_for_which_x_stands_denies_nothing() -> None:
    frozen = fa.freeze(Net().eval())
    y = frozen.verdict(X).argmax(1)

    def outside(search: Any) -> None:
        search.gradient((search.x + 0.01).clamp(0, 1))

    out = fa.attacks.core.run(frozen, X, y, fa.Linf(0.001), outside, loss="ce")
    assert not frozen.plain
    assert torch.equal(out.x_adv, X)
    assert DENIED not in frozen.notes


def test_what_another_thread_adds_meanwhile_disturbs_nothing() -> None:
    class Rows:
        """A batch of four; at the moment when its size is asked, another thread adds what it compared."""

        dtype, shape = X.dtype, X.shape

        def __len__(self) -> int:
            trusted.add((True, len(trusted._known)), X, X)
            return 4

    trusted = Trusted()
    trusted.add((True, "few"), X[:2], X)
    trusted.add((True, "more"), X[:4], X)
    trusted.add((False, "logits alone"), X[:6], X)
    assert trusted.knows_size(Rows())  # type: ignore[arg-type]
    assert not trusted.knows_size(X[:6])
    assert not trusted.knows_size(X[:1])


def test_both_formats_set_the_bounds_and_a_gpus_rounds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `rounds_as` says, for the logits and what a search is held to."""
    model = Net().eval()
    frozen, x, y = fa.freeze(model), X[:4], torch.arange(4)
    monkeypatch.setattr(search_copy, "rounds_as", lambda format, device: f"{format} there")
    half = fa.freeze(model.double(), "bf16").search
    assert half.formats(half.form, x.device) == ["torch.float64 there", "torch.float64 there"]
    half.use_narrow()
    assert half.formats(half.form, x.device) == ["torch.float64 there", "torch.bfloat16 there"]
    model.float()
    monkeypatch.setattr(search_copy, "rounds_as", lambda format, device: "tf32")
    frozen.input_gradient(x, y)
    logits = frozen.verdict(x)
    known = frozen.search.trusted._known
    assert known
    frozen.hold(allowance(logits, ["tf32"]), logits)
    assert frozen.search.trusted._known is known
    frozen.hold(3 * allowance(logits, ["tf32"]), logits)
    assert not frozen.search.trusted._known
