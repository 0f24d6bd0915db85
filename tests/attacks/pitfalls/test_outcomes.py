"""Pitfalls 9, 10 and 15: what a result says is what is there. Pitfall 1, a failure, is in the contract."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fastadv.losses import loss_value
from fastadv.ops import quantize_in_ball

from ..contract.cases import options
from ..nets import RADIUS, THREATS, Case, images, labels, linear, mlp, threat

pytestmark = pytest.mark.slow  # thousands of short runs


class TestPitfall09BestIterate:
    """The point returned is one that was evaluated, the last one included."""

    @pytest.mark.covered("stop_early", [True, False])
    def test_a_fresh_forward_agrees(self, case: Case, norm: str, stop_early: bool) -> None:
        model, x = mlp(dtype=torch.float32), images(12, dtype=torch.float32)
        y = labels(model, x)
        out = case(model, x, y, threat(norm), **options(case, stop_early=stop_early))
        with torch.no_grad():
            logits = model(out.x_adv)
        assert torch.equal(out.success, logits.argmax(1) != y)
        given = case.entry.parameters.get("loss")
        loss = given.default if given is not None and isinstance(given.default, str) else "margin"
        # one pass or another: the rounding of float32 is 1e-7 of each term
        torch.testing.assert_close(out.loss, loss_value(logits, y, loss), rtol=1e-5, atol=1e-5)

    @pytest.mark.only(kind="budget", knowledge="gradient")
    def test_the_last_iterate_counts(self, case: Case) -> None:
        # the boundary lies at 0.97 of the radius, which only the last of the small steps crosses
        model, x = linear(2).double(), torch.full((1, 16), 0.5, dtype=torch.float64)
        weight = (model[1].weight[1] - model[1].weight[0]).detach()
        with torch.no_grad():
            model[1].bias.copy_(
                torch.tensor([0.0, -float(weight @ x[0]) - 0.097 * float(weight.abs().sum())])
            )
        assert case(model, x, torch.zeros(1, dtype=torch.long), THREATS["linf"](0.1)).success.all()

    @pytest.mark.only(takes=("steps", "step_size", "stop_early"))
    def test_more_steps_are_never_worse(self, case: Case, norm: str) -> None:
        model, x = mlp(), images(16)
        y, size = labels(model, x), max(1.0, RADIUS[norm]) if norm == "l0" else RADIUS[norm] / 3
        outs = [
            case(model, x, y, threat(norm), steps=steps, step_size=size, stop_early=False)
            for steps in (0, 1, 3, 9)
        ]
        for few, many in pairwise(outs):
            assert (many.success | ~few.success).all()
            assert (many.loss >= few.loss - 1e-9)[many.success == few.success].all()


class TestPitfall10Restarts:
    """Each sample keeps its own worst case, and what is solved is left alone."""

    @pytest.mark.only(takes=("restarts", "stop_early"))
    def test_never_worse(self, case: Case, norm: str) -> None:
        model, x = mlp(), images(24)
        y = labels(model, x)
        one, three = (case(model, x, y, threat(norm), restarts=n, stop_early=False) for n in (1, 3))
        assert (three.success | ~one.success).all()
        assert (three.loss >= one.loss - 1e-9)[one.success == three.success].all()

    @pytest.mark.only(takes=("restarts", "stop_early"))
    def test_solved_samples_are_not_attacked_again(self, case: Case, norm: str) -> None:
        model, x = mlp(), images(24)
        y = labels(model, x)
        one = case(model, x, y, threat(norm))
        solved, left = one.success, int((~one.success).sum())
        again = case(model, x, y, threat(norm), restarts=2)
        steps = int(case.quick.get("steps", case.quick.get("queries", 1)))
        assert again.backwards - one.backwards <= steps * left
        assert again.forwards - one.forwards <= (steps + 1) * left + 24
        assert torch.equal(again.x_adv[solved], one.x_adv[solved])


class TestPitfall15MetricsAndExport:
    """Samples already wrong cost a pass; 8-bit export keeps the verdict."""

    def test_all_wrong_costs_one_pass(self, case: Case) -> None:
        model, x = mlp(), images(5)
        out = case(model, x, (labels(model, x) + 1) % 3, threat(case.entry.norms[0]))
        assert (out.forwards, out.backwards) == (5, 0)

    @pytest.mark.only(kind="budget")
    def test_eight_bits(self, case: Case, norm: str) -> None:
        model, x = linear(4), (images(32, dtype=torch.float32) * 255).round() / 255
        y, inside = labels(model, x), threat(norm)
        out = case(model, x, y, inside, **options(case, stop_early=False))
        stored = (quantize_in_ball(out.x_adv, x, norm, inside.radius) * 255).round().to(torch.uint8)
        read: Tensor = stored.float() / 255
        assert inside.contains(read, x).all()
        assert out.success.sum() >= 4
        kept = (labels(model, read) != y)[out.success]
        assert kept.float().mean() > 0.9
