"""A way is chosen by what this machine measured; whatever that was, results change by rounding alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import fastadv as fa
from fastadv.engine import choices, chooser, stopwatch
from fastadv.engine.choices import Choice, Choices
from fastadv.engine.chooser import Chooser
from fastadv.engine.cpu import activations, onednn, winograd
from fastadv.engine.rewrite import Rewrite, Rewriting, Subject
from fastadv.errors import InputError
from fastadv.runs import processes
from tests.engine.nets import convnet, images

pytestmark = pytest.mark.usefixtures("unknown_machine")

X, Y = images()


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls are not timed: the way takes a third of the time of those that the list names, else thrice."""
    asked: list[str] = []

    def measured(way: Any, func: Any, args: Any, kwargs: Any, most: float) -> tuple[float, float] | None:
        asked.append(func.__name__)
        return (0.001, 0.003) if most > 0 else None

    monkeypatch.setattr(chooser, "measured", measured)
    return asked


def seen(way: Choice, seconds: float = 1.0) -> Rewriting:
    rewrite = Rewrite("double", "", lambda subject: True, {torch.sin: way})
    return Rewriting([rewrite], Subject(nn.Identity(), torch.float32), Chooser(seconds))


def taken(rewriting: Rewriting, x: Tensor) -> bool:
    with rewriting.lens():
        return bool((torch.sin(x) == 2.0).all())


def double(expected: Any) -> Choice:
    return Choice(lambda x: torch.full_like(x, 2.0), lambda x: expected)


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize("pair", [(1.0, 3.0), (3.0, 1.0), (1.0, 1.0), (1.02, 1.0), (1.0, 1.02), None])
def test_what_was_measured_decides_and_in_doubt_what_is_expected(
    expected: bool, pair: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chooser, "measured", lambda *args: pair)
    faster = {(1.0, 3.0): True, (3.0, 1.0): False}.get(pair, expected)  # type: ignore[arg-type]
    assert taken(seen(double(expected)), torch.rand(4, 3)) == faster


def test_a_call_by_names_goes_as_expected(times: list[str]) -> None:
    rewriting = seen(Choice(lambda input: torch.full_like(input, 2.0), lambda input: False))
    with rewriting.lens():
        assert not bool((torch.sin(input=torch.rand(4, 3)) == 2.0).any())
    assert times == []


def test_a_call_with_numbers_of_numpy_goes_as_expected(times: list[str]) -> None:
    way = Choice(lambda x, shape: torch.zeros(2), lambda x, shape: True)
    rewrite = Rewrite("zero", "", lambda subject: True, {torch.reshape: way})
    with Rewriting([rewrite], Subject(nn.Identity(), torch.float32), Chooser(1.0)).lens():
        assert torch.reshape(torch.ones(4, 3), (np.int64(12),)).shape == (2,)
    assert times == []


def test_what_does_not_suit_is_never_taken(times: list[str]) -> None:
    assert not taken(seen(double(NotImplemented)), torch.rand(4, 3))
    assert times == []


def test_a_kind_of_call_is_measured_once_on_a_machine(times: list[str]) -> None:
    one, other = seen(double(False)), seen(double(False))
    for rewriting in (one, one, other):
        assert taken(rewriting, torch.rand(4, 3))
    assert len(times) == 1
    assert taken(one, torch.rand(3, 3))  # as many rows, up to the same power of two
    assert len(times) == 1
    for x in (
        torch.rand(5, 3),
        torch.rand(4, 4),
        torch.rand(4, 3).double(),
        torch.rand(4, 3, requires_grad=True),
    ):
        taken(one, x)
    assert len(times) == 5
    choices._choices.cache_clear()  # another process
    assert taken(seen(double(False)), torch.rand(4, 3))
    assert len(times) == 5
    kept = choices.here()
    assert kept is not None
    assert json.loads(kept.path.read_text())["machine"] == choices.machine()


def test_a_kind_of_call_is_asked_for_once() -> None:
    asked: list[Tensor] = []
    for faster in (True, False):
        way = Choice(lambda x: torch.full_like(x, 2.0), lambda x, faster=faster: asked.append(x) or faster)
        rewriting, x = seen(way, seconds=0.0), torch.rand(4, 3)
        asked.clear()
        assert [taken(rewriting, x) for _ in range(2)] == [faster, faster]
        assert len(asked) == 1


def test_what_is_left_out_is_not_taken_though_it_was_chosen(times: list[str]) -> None:
    x, triple = torch.rand(4, 3), Choice(lambda x: torch.full_like(x, 3.0), lambda x: True)
    rewrites = [
        Rewrite(name, "", lambda subject: True, {torch.sin: way})
        for name, way in (("double", double(True)), ("triple", triple))
    ]
    both = Rewriting(rewrites, Subject(nn.Identity(), torch.float32), Chooser(1.0))
    assert taken(both, x)
    with both.without("double").lens():
        assert bool((torch.sin(x) == 3.0).all())
    assert taken(both, x)


def test_a_pass_that_is_compared_takes_what_is_slower_as_well(times: list[str]) -> None:
    with seen(double(False), seconds=0.0).lens(compared=True):
        assert bool((torch.sin(torch.rand(4, 3)) == 2.0).all())


@pytest.mark.parametrize("faster", [True, False])
def test_what_a_way_keeps_is_forgotten_where_it_is_slower(
    faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chooser, "measured", lambda *args: (1.0, 9.0) if faster else (9.0, 1.0))
    forgotten: list[Tensor] = []
    way = double(True)._replace(forget=forgotten.append)
    assert taken(seen(way), torch.rand(4, 3)) == faster
    assert len(forgotten) == (not faster)


def test_instructions_that_are_forced_are_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = set()
    for forced in ("", "baseline", "avx2"):
        monkeypatch.setenv("FASTADV_ISA", forced)
        kept = choices.here()
        assert kept is not None
        paths.add(kept.path)
    assert len(paths) == 3


def test_a_thread_that_has_waited_takes_what_the_other_measured(
    times: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(4, 3)

    class Other:
        def __enter__(self) -> None:
            kept, call = choices.here(), stopwatch.described("double", torch.sin, (x,), {})
            assert kept is not None
            assert call is not None
            kept.add(call, (0.001, 0.003))

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(chooser, "_measuring", Other())
    assert taken(seen(double(False)), x)
    assert times == []


def test_threads_are_a_part_of_what_was_measured(times: list[str]) -> None:
    before, rewriting = torch.get_num_threads(), seen(double(False))
    taken(rewriting, torch.rand(4, 3))
    try:
        torch.set_num_threads(before + 1)
        taken(seen(double(False)), torch.rand(4, 3))
    finally:
        torch.set_num_threads(before)
    assert len(times) == 2


def test_without_time_it_goes_as_expected_for_good(times: list[str]) -> None:
    spent = seen(double(False))
    spent.chooser.left = 0.0
    assert not taken(spent, torch.rand(4, 3))
    choices._choices.cache_clear()
    assert not taken(seen(double(False)), torch.rand(4, 3))  # as before, to the bit
    assert len(times) == 1
    assert taken(seen(double(False), seconds=9.0), torch.rand(4, 3))  # asked for
    assert taken(seen(double(False)), torch.rand(4, 3))
    assert len(times) == 2


def test_without_time_logits_go_as_gradients(times: list[str]) -> None:
    x = torch.rand(4, 3)
    assert taken(seen(double(False)), x.clone().requires_grad_())
    spent = seen(double(False))
    spent.chooser.left = 0.0
    assert taken(spent, x)
    assert len(times) == 2


def test_logits_that_went_as_expected_do_so_whatever_is_measured_later(times: list[str]) -> None:
    x, spent = torch.rand(4, 3), seen(double(False))
    spent.chooser.left = 0.0
    assert not taken(spent, x)
    assert taken(seen(double(False)), x.clone().requires_grad_())
    choices._choices.cache_clear()
    assert not taken(seen(double(False)), x)


def test_time_that_was_taken_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(chooser.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(chooser, "measured", lambda *args: (1.0, 2.0))
    rewriting = seen(double(False), seconds=1.5)
    taken(rewriting, torch.rand(4, 3))
    assert rewriting.chooser.left == 0.5


@pytest.mark.parametrize("how", ["deterministic", "group", "variable", "False", "zero", "no home"])
def test_nothing_is_measured(how: str, times: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tune: Any = {"False": False, "zero": 0}.get(how)
    if how == "deterministic":
        torch.use_deterministic_algorithms(True, warn_only=True)
    elif how == "group":
        monkeypatch.setattr(processes, "world", lambda: 2)
    elif how == "variable":
        monkeypatch.setenv("FASTADV_TUNE", "0")
    elif how == "no home":
        monkeypatch.setattr(choices, "user_cache", nobody)
    frozen = fa.freeze(convnet().eval(), tune=tune)
    frozen.input_gradient(X, Y)
    assert times == []
    usual = fa.freeze(convnet().eval())
    usual.input_gradient(X, Y)
    assert bool(times) == (how in ("False", "zero"))


def test_choices_made_by_times_end_where_results_must_repeat(times: list[str]) -> None:
    x, rewriting = torch.rand(4, 3), seen(double(False))
    assert taken(rewriting, x)
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert not taken(rewriting, x)
    torch.use_deterministic_algorithms(False)
    assert taken(rewriting, x)
    assert len(times) == 1


def nobody() -> Path:
    raise InputError("expected a home folder for the cache, got none")


def test_nobody_sees_what_is_timed(times: list[str]) -> None:
    rewriting = seen(double(False))
    with FlopCounterMode(display=False):
        assert not taken(rewriting, torch.rand(4, 3))
    with profile():
        assert not taken(seen(double(False)), torch.rand(4, 3))
    assert times == []


@pytest.mark.parametrize("told", ["-1", "soon", "inf", "nan"])
def test_a_wrong_variable(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADV_TUNE", told)
    with pytest.raises(InputError, match="FASTADV_TUNE: expected seconds, such as 1, or 0"):
        fa.freeze(convnet().eval())


WRONG = [
    "", "[]", "{", "null", '{"calls": 3}', '{"calls": {"CALL": 3}}', '{"calls": {"CALL": [1.0]}}',
    '{"calls": {"CALL": [NaN, 1.0]}}', '{"calls": {"CALL": ["a", "b"]}}', '{"calls": {"CALL": [-1.0, 0.0]}}',
    "\x00\xff", '{"calls": {"CALL": [1.0, 1' + 5000 * "0" + "]}}", 99_999 * "[",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_file_that_is_wrong_is_written_anew(text: str, times: list[str]) -> None:
    kept = choices.here()
    assert kept is not None
    call = "double sin float32 4x3 contiguous logits, threads 1"
    kept.path.parent.mkdir(parents=True)
    kept.path.write_bytes(text.replace("CALL", call).encode("latin1"))
    choices._choices.cache_clear()
    assert taken(seen(double(False)), torch.rand(4, 3))
    assert len(times) == 1
    again = Choices(kept.path).known
    assert list(again.values()) == [(0.001, 0.003)]


def test_what_another_process_measured_first_holds(times: list[str]) -> None:
    kept = choices.here()
    assert kept is not None
    kept.add("a", (1.0, 2.0))
    Choices(kept.path).add("a", (5.0, 2.0))
    mine = Choices(kept.path)
    mine.add("b", None)
    assert Choices(kept.path).known == {"a": (1.0, 2.0), "b": None}
    Choices(kept.path).add("b", (1.0, 3.0))
    assert Choices(kept.path).known["b"] == (1.0, 3.0)


def test_a_folder_that_cannot_be_written(tmp_path: Path, times: list[str]) -> None:
    (tmp_path / "fastadv").write_text("a file")
    rewriting = seen(double(False))
    taken(rewriting, torch.rand(4, 3))
    taken(rewriting, torch.rand(8, 3))
    assert len(times) == 1  # what cannot be kept would differ from run to run


def net() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    layers = (
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64),
        nn.ReLU(inplace=True), nn.Conv2d(64, 32, 8), nn.ELU(), nn.Flatten(), nn.Linear(32, 64),
        nn.Linear(64, 5),
    )  # fmt: skip
    return nn.Sequential(*layers).eval(), torch.rand(20, 3, 8, 8), torch.arange(20) % 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_choices_change_results_by_rounding_alone(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way that suits, whether expected or not, and none."""
    monkeypatch.setattr(activations, "FEWEST", 0)
    model, x, y = net()
    used, found = [], []
    for pair in ((1.0, 9.0), (9.0, 1.0)):
        monkeypatch.setattr(chooser, "measured", lambda *args, pair=pair: pair)
        frozen = fa.freeze(model, precision)
        found.append(frozen.input_gradient(x, y))
        kept = choices.here()
        assert kept is not None
        used.append({call.split()[0] for call in kept.known})
        kept.path.unlink()
        choices._choices.cache_clear()
    assert used[0] == used[1] >= {"thin", "relu", "elu"} | ({"winograd"} if precision == "fp32" else set())
    near = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.1, "atol": 0.05}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **near)
    if precision == "fp32":
        assert not torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("off", ["thin", "winograd", "relu", "elu", "onednn"])
def test_what_is_switched_off_is_not_measured(
    off: str, times: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "is_faster", onednn.available)
    monkeypatch.setattr(activations, "FEWEST", 0)
    monkeypatch.setattr(onednn, "FEWEST", 0)
    monkeypatch.setenv("FASTADV_WITHOUT", off)
    model, x, y = net()
    fa.freeze(model).input_gradient(x, y)
    kept = choices.here()
    assert kept is not None
    names = {call.split()[0] for call in kept.known}
    assert names == {"thin", "winograd", "relu", "elu", "onednn"} - {off}


def test_a_way_that_is_not_expected_is_compared_as_well(
    times: list[str], monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    """Winograd's method is not expected to gain for 64 channels; here it is chosen, and wrong."""
    real = winograd.winograd_image
    monkeypatch.setattr(winograd, "winograd_image", lambda *args: 1.1 * real(*args))
    model, x, y = net()
    frozen = fa.freeze(model)
    found = frozen.input_gradient(x, y)[2]
    assert any(note.startswith("not winograd") for note in frozen.notes)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-5)


def test_a_call_is_timed_as_it_is_made() -> None:
    torch.manual_seed(0)
    x, weight = torch.rand(4, 3, requires_grad=True), torch.rand(2, 3)
    made: list[tuple[str, bool, torch.Size]] = []

    def way(name: str) -> Any:
        def run(x: Tensor, weight: Tensor, bias: Tensor | None, inplace: bool) -> Tensor:
            made.append((name, x.requires_grad, x.shape))
            assert not inplace
            assert torch.is_grad_enabled() == x.requires_grad
            return F.linear(x, weight, bias)

        return run

    before, state = x.clone(), torch.get_rng_state()
    for given in (x, x.detach()):
        made.clear()
        pair = stopwatch.measured(way("way"), way("plain"), (given, weight, None), {"inplace": True}, 5.0)
        assert pair is not None
        assert min(pair) > 0
        names = [name for name, *_ in made]
        assert names[:4] == ["plain", "way", "plain", "way"]
        assert len(names) >= 2 * stopwatch.LEAST_TURNS
        assert {(follows, shape) for _, follows, shape in made} == {(given.requires_grad, x.shape)}
    assert torch.equal(x, before)
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_of_two_ways_the_faster_is_told_and_nothing_where_they_take_turns() -> None:
    assert stopwatch.agreed([3.0, 2.0], [4.0, 5.0]) == (2.0, 4.0)
    assert stopwatch.agreed([4.0, 5.0], [3.0, 2.0]) == (4.0, 2.0)
    assert stopwatch.agreed([3.0, 5.0], [4.0, 2.0]) == (2.0, 2.0)
    assert stopwatch.agreed([3.0, 3.0, 9.0], [4.0, 5.0, 4.0]) == (3.0, 4.0)  # one slow turn decides nothing
    assert stopwatch.agreed([4.0, 5.0, 4.0], [3.0, 3.0, 9.0]) == (4.0, 3.0)
    assert stopwatch.agreed([3.0, 6.0, 6.0, 3.0], [5.0, 4.0, 4.0, 4.0]) == (3.0, 3.0)
    assert stopwatch.agreed([3.0, 3.0, 5.0], [4.0, 4.0, 1.0]) == (1.0, 1.0)


def test_no_more_time_is_taken_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def call(x: Tensor) -> Tensor:
        calls.append(x)
        clock[0] += 1.0
        return x

    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])
    x = torch.rand(3, 2)
    assert stopwatch.measured(call, call, (x,), {}, 0.0) is None
    assert len(calls) == 0
    assert stopwatch.measured(call, call, (x,), {}, 7.0) is None  # two ways, four times each
    assert clock[0] <= 2.0
    assert stopwatch.measured(call, call, (x,), {}, 100.0) == (1.0, 1.0)


def test_a_way_that_fails_goes_as_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def broken(*args: Any) -> None:
        tried.append(args)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chooser, "measured", broken)
    assert taken(seen(double(True)), torch.rand(4, 3))
    assert not taken(seen(double(False)), torch.rand(4, 3))
    assert len(tried) == 1
    kept = choices.here()
    assert kept is not None
    assert not kept.path.exists()


CODE = """
import torch, sys
import fastadv as fa
torch.manual_seed(0)
x = torch.rand(32, 3, 16, 16)
model = fa.models.create("small_cnn", shape=(3, 16, 16), width=16).eval()
out = fa.attacks.pgd(fa.freeze(model), x, model(x).argmax(1), fa.Linf(0.05), steps=4)
print(out.x_adv.double().sum().item().hex())
"""


@pytest.mark.slow
def test_two_runs_on_a_machine_are_the_same_to_the_bit(tmp_path: Path) -> None:
    root = str(Path(fa.__file__).parent.parent)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["OMP_NUM_THREADS"] = "1"
    said = [
        subprocess.run(
            [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    assert said[0].stdout == said[1].stdout
    (kept,) = (tmp_path / "cache" / "fastadv" / "tune").iterdir()
    assert json.loads(kept.read_text())["calls"]
