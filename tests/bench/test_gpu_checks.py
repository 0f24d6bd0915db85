"""The correctness stage of `make gpu` notices faults, and the launch widths that are found are used."""

from types import SimpleNamespace

import pytest
import torch

from bench.subjects import correctness
from bench.subjects.correctness import checked, misjudged
from fastadv.ops.registration.library import CARDS
from runs import CPU, session

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, in the interpreter


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
