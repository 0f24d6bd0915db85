"""The correctness stage of `make gpu` notices faults, and the launch widths that are found are used."""

import json
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastadv as fa
from bench import nets, pgd
from bench.subjects import correctness, loop
from bench.subjects.correctness import checked, misjudged, relative_error
from bench.subjects.widths import write_tuned
from fastadv import _waiting
from fastadv.ops import _graphs
from fastadv.ops.registration.library import CARDS
from runs import CPU, known, session
from tests import recorded

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, in the interpreter

Args = tuple[Any, ...]


def planted(fault):
    """linf_step with a fault: `fault` gets the result and the arguments after a right computation."""

    def launch(out, *args):
        kept = out.clone()
        out.copy_(CARDS["linf_step"].reference(*args))
        fault(out, (kept, *args))

    return launch


class TestChecks:
    """The correctness stage notices faults."""

    def args(self):
        return next(a for a in CARDS["linf_step"].samples(CPU, torch.float32) if a[0].shape == (3, 7))

    def test_a_right_kernel_passes(self):
        assert checked(CARDS["linf_step"], planted(lambda out, args: None), self.args()) < 1e-6

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (lambda out, args: out.view(-1)[-1].copy_(args[0].view(-1)[-1]), "was not written"),
            (lambda out, args: args[1].zero_(), "argument 0 was changed"),
            (lambda out, args: out.mul_(1.001), "differ, by up to"),
            (lambda out, args: out.add_(torch.rand(()) * 1e-3), "two runs differ"),
        ],
        ids=["unwritten", "argument", "value", "race"],
    )
    def test_a_fault_is_noticed(self, fault, message):
        torch.manual_seed(0)
        with pytest.raises(AssertionError, match=message):
            checked(CARDS["linf_step"], planted(fault), self.args())

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("capture", "message"),
        [
            (recorded.capture, ""),
            (lambda run: lambda: None, "'status_apart': "),
            (lambda run: recorded.capture(lambda: bool(torch.ones(1)) and run()), "no step was replayed"),
        ],
        ids=["right", "nothing", "refused"],
    )
    def test_steps_that_a_graph_replays(self, capture, message, monkeypatch):
        monkeypatch.setattr(_waiting, "AT_ONCE", set())
        monkeypatch.setattr(_graphs, "capture", capture)
        model, x = nets.mlp(), torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        call = partial(fa.attacks.pgd, model, x, pgd.classes(model, x), fa.Linf(0.02), steps=20)
        with pytest.raises(AssertionError, match=message) if message else nullcontext():
            row = loop.compared("pgd", partial(call, stop_early=False))
            assert (row["replays"], row["rows_apart"], row["status_apart"]) == (19, 0, 0)
            assert row["broken"] == row["broken_by_steps"] > 0

    @pytest.mark.slow
    def test_what_a_plain_call_takes_beyond_its_replays(self, monkeypatch):
        monkeypatch.setattr(_waiting, "AT_ONCE", set())
        monkeypatch.setattr(_graphs, "capture", recorded.capture)
        given = known(plain_loop=8.0, its_replays_alone=3.0)
        rows = {row["provider"]: row for row in loop.measured(given, "mlp", 1)}
        ours = rows[loop.OURS]
        assert (ours["graph_kept"], ours["replays"], ours["outside_ms"]) == (True, 9, 1.0)
        assert rows[loop.REPLAYS]["times_plain"] == 2.67
        monkeypatch.setattr(_graphs, "capture", lambda run: 1 / 0)
        assert not any(row.get("graph_kept") for row in loop.measured(given, "resnet18", 1))
        with pytest.raises(AssertionError, match="no graph was kept"):
            list(loop.measured(given, "mlp", 1))

    def test_a_written_argument_is_compared(self):
        card = CARDS["keep_best_"]
        args = next(a for a in card.samples(CPU, torch.float32) if a[0].shape == (64, 3))
        assert checked(card, card.reference, args) == 0.0
        with pytest.raises(AssertionError, match="argument 0 differs"):
            checked(card, lambda *given: None, args)

    def test_relative_error(self):
        wanted = torch.tensor([3.0, 4.0, float("nan")], dtype=torch.float64)
        found = torch.tensor([3.0, 4.05, 1.0])
        assert relative_error((found,), (wanted,)) == pytest.approx(0.01, rel=1e-5)
        # of a reference of nothing, the error counts against pixels of a hundredth
        assert relative_error((torch.full((4,), 1e-5),), (torch.zeros(4),)) == pytest.approx(1e-3, rel=1e-5)

    def test_verdicts_may_differ_on_the_border_alone(self):
        logits = torch.tensor([[1.0, 0.0], [1.0, 1.000001], [0.0, 1.0]])
        y, nothing = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
        assert misjudged(logits, y, nothing).tolist() == [False, False, True]
        assert misjudged(logits, y, ~nothing).tolist() == [True, False, False]


def entry(change):
    """An attack on L2 that returns x, changed by `change(result, model)`."""

    def run(model, x, y, threat):
        with torch.no_grad():
            result = SimpleNamespace(x_adv=x.clone(), success=model(x).argmax(1) != y)
        change(result, model)
        return result

    return SimpleNamespace(run=run, norms=("l2",), kind="budget", quick={}, needs="")


def _move(result, model):
    result.x_adv[0] = 1 - result.x_adv[0]


def _shake(result, model):
    result.x_adv[0, 0, 0, 0] = torch.rand(())


def _overrule(result, model):
    result.success[0] = True


def _train(result, model):
    with torch.no_grad():
        model.linear.bias[9] += 1e-3


class TestCorrectness:
    def test_a_right_attack_passes(self):
        (row,) = correctness.attack(session(), "x", entry(lambda result, model: None))
        assert (row["provider"], row["samples"], row["success"]) == ("l2", 4, 0.0)

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (_move, "1 results lie outside the threat"),
            (_shake, "two runs differ"),
            (_overrule, "1 verdicts are not the model's"),
            (_train, "the model was changed"),
        ],
    )
    def test_a_wrong_attack_is_noticed(self, fault, message):
        with pytest.raises(AssertionError, match=message):
            list(correctness.attack(session(), "x", entry(fault)))

    def test_an_inexact_op_is_noticed(self, monkeypatch):
        monkeypatch.setattr(correctness, "checked", lambda *args: 0.01)
        with pytest.raises(AssertionError, match=r"relative error 0\.01"):
            list(correctness.op(session(), "project_l2"))

    @pytest.mark.slow
    def test_an_inexact_engine_is_noticed(self, monkeypatch):
        wanted = correctness.gradients
        monkeypatch.setattr(
            correctness, "gradients", lambda *given: tuple(1.3 * part for part in wanted(*given))
        )
        for precision in ("fp32", "bf16"):
            with pytest.raises(AssertionError, match=r"logits: relative error 0\.2"):
                list(correctness.engine(session(), precision))


def winner(kernel, block, gpu="H"):
    width = None if block is None else {"BLOCK": block, "num_warps": 8}
    return {"provider": "winner", "kernel": kernel, "width": width, "gpu": gpu}


class TestTuned:
    def test_winners_are_kept_by_gpu_and_kernel(self, tmp_path):
        path = tmp_path / "tuned.json"
        assert not write_tuned(path, [winner("a", 512, gpu="")])
        assert write_tuned(path, [winner("a", 512), winner("b", 1024), winner("a", 256, gpu="A")])
        assert write_tuned(path, [winner("b", None)])  # its default won
        assert json.loads(path.read_text()) == {
            "H": {"a": {"BLOCK": 512, "num_warps": 8}},
            "A": {"a": {"BLOCK": 256, "num_warps": 8}},
        }
