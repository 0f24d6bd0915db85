"""Pitfalls 8, 11, 12 and 13: targets, side effects, batches, class counts."""

import copy

import pytest
import torch
from torch import Tensor

from fastadv.attacks import Status
from fastadv.engine import freeze
from fastadv.errors import InputError

from ..contract.unchanged import trained, unchanged
from ..nets import Case, convnet, images, labels, mlp, threat


class TestPitfall08Targets:
    """A targeted success is the target, by every path through the engine."""

    @pytest.mark.parametrize("path", ["as given", "folded", "bf16", "unfolded bf16"])
    def test_success_is_the_target(self, attack: Case, norm: str, path: str) -> None:
        model, x = convnet(), images(24, (2, 8, 8), dtype=torch.float32)
        y = labels(model, x)
        targets = (y + 1) % 4
        frozen = freeze(model, "bf16" if "bf16" in path else "fp32", fold=path in ("folded", "bf16"))
        if not attack.entry.targeted:
            with pytest.raises((InputError, TypeError)):
                attack(frozen, x, y, threat(norm), targets=targets)
            return
        out = attack(frozen, x, y, threat(norm, 4), targets=targets)
        assert torch.equal(out.success, labels(model, out.x_adv) == targets)
        assert out.success.any() or not attack.takes("steps")
        before, after = (model.eval()(z).log_softmax(1).gather(1, targets[:, None]) for z in (x, out.x_adv))
        assert (after > before).float().mean() > 0.9
        assert not any("fell back" in note for note in frozen.notes)

    def test_target_reached_at_the_start(self, attack: Case) -> None:
        if not attack.entry.targeted:
            pytest.skip("untargeted only")
        model, x = mlp(), images(4)
        targets = labels(model, x)
        out = attack(model, x, (targets + 1) % 3, threat("linf"), targets=targets)
        assert (out.status == Status.ALREADY_WRONG).all()
        assert torch.equal(out.x_adv, x)


class TestPitfall11NoSideEffects:
    """The caller's model, tensors, modes and random state are as they were."""

    def test_after_an_exception(self, attack: Case) -> None:
        if not attack.takes("loss"):
            pytest.skip("its loss is fixed")
        model, x = trained(), images(8, (2, 8, 8), dtype=torch.float32)
        y = labels(model, x)

        def broken(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            raise ZeroDivisionError

        with unchanged(model, x, y), pytest.raises(ZeroDivisionError):
            attack(model, x, y, threat("linf"), loss=broken)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_inside_grad_modes(self, attack: Case, norm: str, mode: type) -> None:
        model, x = trained(), images(8, (2, 8, 8), dtype=torch.float32)
        y = labels(model, x)
        plain = attack(model, x, y, threat(norm))
        with mode(), unchanged(model):
            inside = attack(model, x * 1.0, y + 0, threat(norm))
        assert torch.equal(plain.x_adv, inside.x_adv)
        assert torch.equal(plain.status, inside.status)


class TestPitfall12BatchIndependence:
    """A sample's result is its own: any batch, order, rank or companion."""

    def test_sizes_and_order(self, attack: Case, norm: str) -> None:
        model, x = mlp(), images(64)
        y, ids, inside = labels(model, x), torch.arange(64), threat(norm)
        whole = attack(model, x, y, inside)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
        for part in (*ids[:3].split(1), *ids.split(7), order):
            out = attack(model, x[part], y[part], inside, ids=part)
            torch.testing.assert_close(out.x_adv, whole.x_adv[part], rtol=0, atol=1e-9)
            assert torch.equal(out.status, whole.status[part])


class TestPitfall13ClassCounts:
    """Two classes or a thousand, with every loss; one logit is refused with advice."""

    @pytest.mark.parametrize("classes", [2, 3, 4, 10, 1000])
    @pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "cw"])
    def test_losses(self, attack: Case, classes: int, loss: str) -> None:
        if not attack.takes("loss"):
            pytest.skip("its loss is fixed")
        model, x = mlp(classes), images(12)
        y = labels(model, x)
        out = attack(model, x, y, threat("linf", 2), loss=loss)
        assert out.success.any()
        assert (out.status != Status.FAILED).all()
        if attack.entry.targeted:
            assert (
                attack(model, x, y, threat("linf", 4), loss=loss, targets=(y + 1) % classes)
                .x_adv.isfinite()
                .all()
            )

    def test_labels_the_model_does_not_have(self, attack: Case) -> None:
        model = copy.deepcopy(mlp())
        with pytest.raises(InputError, match="classes 0 to 2"):
            attack(model, images(3), torch.tensor([0, 1, 3]), threat("linf"))
