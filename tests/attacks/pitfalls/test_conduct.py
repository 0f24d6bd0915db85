"""Pitfalls 8, 11, 12 and 13: targets, side effects, batches, class counts: what the contract leaves open."""

import math

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import Status
from fastadv.engine import freeze
from fastadv.errors import InputError

from ..contract.unchanged import trained, unchanged
from ..nets import Case, convnet, images, labels, mlp, threat

pytestmark = pytest.mark.slow  # thousands of short runs


class TestPitfall08Targets:
    """A targeted success is the target, by every path through the engine."""

    @pytest.mark.covered("path", ["folded", "bf16"])
    def test_success_is_the_target(self, case: Case, norm: str, path: str) -> None:
        model, x = convnet(), images(12, (2, 8, 8), dtype=torch.float32)
        y = labels(model, x)
        targets = (y + 1) % 4
        frozen = freeze(model, "bf16" if path == "bf16" else "fp32")
        if not case.entry.targeted:
            with pytest.raises((InputError, TypeError)):
                case(frozen, x, y, threat(norm), targets=targets)
            return
        out = case(frozen, x, y, threat(norm, 4), targets=targets)
        assert torch.equal(out.success, labels(model, out.x_adv) == targets)
        if case.entry.knowledge == "gradient" and not case.entry.minimal:
            # three steps of APGD in L1 move few coordinates
            assert out.success.any() or norm == "l1" or not case.takes("steps")
            before, after = (
                model.eval()(z).log_softmax(1).gather(1, targets[:, None]) for z in (x, out.x_adv)
            )
            assert (after > before).float().mean() > 0.9
        assert not any("fell back" in note for note in frozen.notes)

    def test_target_reached_at_the_start(self, case: Case) -> None:
        if not case.entry.targeted:
            pytest.skip("untargeted only")
        model, x = mlp(), images(4)
        targets = labels(model, x)
        out = case(model, x, (targets + 1) % 3, threat(case.entry.norms[0]), targets=targets)
        assert (out.status == Status.ALREADY_WRONG).all()
        assert torch.equal(out.x_adv, x)


class TestPitfall11NoSideEffects:
    """The caller's model, tensors, modes and random state are as they were."""

    def test_after_an_exception_of_the_model(self, case: Case) -> None:
        calls, most = [0], [math.inf]

        class Failing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = trained()

            def forward(self, x: Tensor) -> Tensor:
                calls[0] += 1
                if calls[0] > most[0]:
                    raise ZeroDivisionError
                logits: Tensor = self.net(x)
                return logits

        model, x = Failing(), images(3, (2, 8, 8), dtype=torch.float32)
        y, inside = labels(model, x), threat(case.entry.norms[0])
        calls[0] = 0
        case(model, x, y, inside)
        calls[0], most[0] = 0, 0.6 * calls[0]
        with unchanged(model, x, y), pytest.raises(ZeroDivisionError):
            case(model, x, y, inside)

    def test_inside_inference_mode(self, case: Case) -> None:
        """Where no_grad holds as well."""
        model, x = trained(), images(4, (2, 8, 8), dtype=torch.float32)
        y, inside = labels(model, x), threat(case.entry.norms[0])
        plain = case(model, x, y, inside)
        with torch.inference_mode(), unchanged(model):
            out = case(model, x * 1.0, y + 0, inside)
        assert torch.equal(plain.x_adv, out.x_adv)
        assert torch.equal(plain.status, out.status)


class TestPitfall12BatchIndependence:
    """A sample's result is its own; of other batches and orders the contract says so, in every norm."""

    def test_a_sample_twice(self, case: Case) -> None:
        model, x = mlp(), images(8)
        y, inside = labels(model, x), threat(case.entry.norms[0])
        whole = case(model, x, y, inside)
        part = torch.tensor([4, 5, 6, 7, 4, 5])
        out = case(model, x[part], y[part], inside, ids=part)
        torch.testing.assert_close(out.x_adv, whole.x_adv[part], rtol=0, atol=1e-6)
        assert torch.equal(out.status, whole.status[part])


class TestPitfall13ClassCounts:
    """Two classes and three, where losses that rank classes run out of them, with every loss."""

    @pytest.mark.only(takes="loss")
    @pytest.mark.covered("loss", ["ce", "margin", "dlr", "cw"])
    @pytest.mark.parametrize("classes", [2, 3])
    def test_losses(self, case: Case, norm: str, classes: int, loss: str) -> None:
        model, x = mlp(classes), images(12)
        y = labels(model, x)
        out = case(model, x, y, threat(norm, 3), loss=loss)
        assert out.success.any() or case.entry.minimal or case.entry.knowledge != "gradient"
        assert (out.status != Status.FAILED).all()
        out = case(model, x, y, threat(norm, 4), loss=loss, targets=(y + 1) % classes)
        assert (out.status != Status.FAILED).all()
        assert out.x_adv.isfinite().all()
