"""Pitfalls 8, 11, 12 and 13: targets, side effects, batches, class counts."""

import copy
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

    @pytest.mark.covered("path", ["as given", "folded", "bf16", "unfolded bf16"])
    def test_success_is_the_target(self, case: Case, norm: str, path: str) -> None:
        model, x = convnet(), images(12, (2, 8, 8), dtype=torch.float32)
        y = labels(model, x)
        targets = (y + 1) % 4
        frozen = freeze(model, "bf16" if "bf16" in path else "fp32", fold=path in ("folded", "bf16"))
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

    @pytest.mark.only(takes="loss")
    def test_after_an_exception(self, case: Case) -> None:
        model, x = trained(), images(8, (2, 8, 8), dtype=torch.float32)
        y = labels(model, x)

        def broken(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            raise ZeroDivisionError

        with unchanged(model, x, y), pytest.raises(ZeroDivisionError):
            case(model, x, y, threat(case.entry.norms[0]), loss=broken)

    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_after_an_exception_of_the_model(self, case: Case, share: float) -> None:
        """Somewhere on the way, and near the end."""
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
        calls[0], most[0] = 0, share * calls[0]
        with unchanged(model, x, y), pytest.raises(ZeroDivisionError):
            case(model, x, y, inside)

    @pytest.mark.covered("mode", ["no_grad", "inference_mode"])
    def test_inside_grad_modes(self, case: Case, norm: str, mode: str) -> None:
        model, x = trained(), images(4, (2, 8, 8), dtype=torch.float32)
        y = labels(model, x)
        plain = case(model, x, y, threat(norm))
        with getattr(torch, mode)(), unchanged(model):
            inside = case(model, x * 1.0, y + 0, threat(norm))
        assert torch.equal(plain.x_adv, inside.x_adv)
        assert torch.equal(plain.status, inside.status)


class TestPitfall12BatchIndependence:
    """A sample's result is its own: any batch, order, rank or companion."""

    @pytest.mark.covered("way", ["alone", "sevens", "shuffled", "twice"])
    def test_sizes_and_order(self, case: Case, norm: str, way: str) -> None:
        model, x = mlp(), images(16)
        y, ids, inside = labels(model, x), torch.arange(16), threat(norm)
        whole = case(model, x, y, inside)
        parts: dict[str, list[Tensor]] = {
            "alone": [ids[3:4], ids[15:]],
            "sevens": list(ids.split(7)),  # the last batch is smaller
            "shuffled": [torch.randperm(16, generator=torch.Generator().manual_seed(0))],
            "twice": [torch.cat([ids[4:8], ids[4:6]])],
        }
        for part in parts[way]:
            out = case(model, x[part], y[part], inside, ids=part)
            torch.testing.assert_close(out.x_adv, whole.x_adv[part], rtol=0, atol=1e-6)
            assert torch.equal(out.status, whole.status[part])


class TestPitfall13ClassCounts:
    """Two classes or a thousand, with every loss; one logit is refused with advice."""

    @pytest.mark.only(takes="loss")
    @pytest.mark.covered("loss", ["ce", "margin", "dlr", "cw"])
    @pytest.mark.parametrize("classes", [2, 3, 4, 1000])
    def test_losses(self, case: Case, norm: str, classes: int, loss: str) -> None:
        model, x = mlp(classes), images(12)
        y = labels(model, x)
        out = case(model, x, y, threat(norm, 3), loss=loss)
        assert out.success.any() or case.entry.minimal or case.entry.knowledge != "gradient"
        assert (out.status != Status.FAILED).all()
        out = case(model, x, y, threat(norm, 4), loss=loss, targets=(y + 1) % classes)
        assert (out.status != Status.FAILED).all()
        assert out.x_adv.isfinite().all()

    def test_labels_the_model_does_not_have(self, case: Case) -> None:
        model = copy.deepcopy(mlp())
        with pytest.raises(InputError, match="classes 0 to 2"):
            case(model, images(3), torch.tensor([0, 1, 3]), threat(case.entry.norms[0]))
