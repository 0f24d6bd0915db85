"""Pitfalls 2, 4 and 7: numbers at the edge of their format. Saturated pixels are the contract's."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult, Status

from ..contract.cases import NAMED
from ..nets import Case, images, labels, linear, mlp, threat

pytestmark = pytest.mark.slow  # thousands of short runs


class PoisonedGradient(nn.Module):
    """Logits of `net`; where the first coordinate is above 2/3 the gradient of the second is NaN."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        root = torch.where(flat[:, 0] > 2 / 3, 0 * flat[:, 1], torch.ones_like(flat[:, 1])).sqrt()
        logits: Tensor = self.net(x) + 0 * root[:, None]
        return logits


class PoisonedLogits(nn.Module):
    """Logits of `net`, NaN where the first coordinate is above `edge`."""

    def __init__(self, net: nn.Module, edge: float) -> None:
        super().__init__()
        self.net, self.edge = net, edge

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return torch.where(x.flatten(1)[:, :1] > self.edge, torch.nan, logits)


class TestPitfall02NaN:
    """A NaN touches its own sample, is flagged, and is never a success nor an image."""

    @pytest.mark.only(knowledge="gradient")
    def test_gradient(self, case: Case, norm: str) -> None:
        model, x = PoisonedGradient(mlp()), images(12)
        x.flatten(1)[:, 0] = torch.where(torch.arange(12) % 4 == 0, 0.9, 0.3)
        y, inside, poisoned = labels(model, x), threat(norm), torch.arange(12) % 4 == 0
        out = case(model, x, y, inside)
        assert inside.contains(out.x_adv, x).all()
        assert torch.equal(out.success, labels(model, out.x_adv) != y)
        assert (out.status[poisoned & ~out.success] == Status.FAILED).all() or norm == "l0"
        # L0 may write any value into the coordinate that poisons, L1 many
        alone = case(model, x[~poisoned], y[~poisoned], inside, ids=torch.arange(12)[~poisoned])
        torch.testing.assert_close(out.x_adv[~poisoned], alone.x_adv)
        assert torch.equal(out.status[~poisoned], alone.status)
        assert (alone.status != Status.FAILED).all() or norm in ("l0", "l1")

    def test_logits_on_the_way(self, case: Case, norm: str) -> None:
        """One coordinate counts, and is NaN from where x is nearly: whoever moves it meets that."""
        net = linear(2)
        with torch.no_grad():
            net[1].weight.zero_()
            net[1].weight[1, 0] = 1.0
            net[1].bias.copy_(torch.tensor([0.9, 0.0]))
        x = torch.full((4, 1, 4, 4), 0.5) - 1e-3
        out = case(PoisonedLogits(net, 0.5), x, torch.zeros(4, dtype=torch.long), threat(norm))
        assert not out.success.any()
        assert out.distance.isinf().all()
        assert (out.status == Status.FAILED).all() or case.entry.knowledge != "gradient"
        assert threat(norm).contains(out.x_adv, x).all()


@cache
def of_four_classes(name: str, norm: str, shift: float, **given: str) -> AttackResult:
    """What the attack makes of a net to all of whose logits so much is added."""
    model, x = mlp(4), images(12)
    y = labels(model, x)
    with torch.no_grad():
        model[3].bias.add_(shift)
    return NAMED[name](model, x, y, threat(norm), **given)


class TestPitfall04MarginLosses:
    """The other class is the largest of the others, wherever the logits lie."""

    def test_shift_of_all_logits(self, case: Case, norm: str) -> None:
        plain, shifted = (of_four_classes(case.name, norm, shift) for shift in (0.0, -1000.0))
        assert torch.equal(shifted.success, plain.success)
        torch.testing.assert_close(shifted.x_adv, plain.x_adv, rtol=0, atol=1e-6)

    @pytest.mark.only(takes="loss")
    @pytest.mark.covered("loss", ["ce", "margin", "dlr", "cw"])
    def test_shift_of_all_logits_under_every_loss(self, case: Case, norm: str, loss: str) -> None:
        plain, shifted = (of_four_classes(case.name, norm, shift, loss=loss) for shift in (0.0, -1000.0))
        assert torch.equal(shifted.success, plain.success)
        torch.testing.assert_close(shifted.x_adv, plain.x_adv, rtol=0, atol=1e-6)
        assert plain.success.any() or case.entry.minimal or case.entry.knowledge != "gradient"

    def test_confident_logits_do_not_underflow(self, case: Case, norm: str) -> None:
        model, x = linear(2), images(12, dtype=torch.float32)
        y = labels(model, x)
        mild = case(model, x, y, threat(norm))
        with torch.no_grad():
            model[1].weight.mul_(1e5)
            model[1].bias.mul_(1e5)
        sure = case(model, x, y, threat(norm))
        assert not sure.zero_gradient.any()
        assert torch.equal(sure.success, mild.success)
        torch.testing.assert_close(sure.x_adv, mild.x_adv, rtol=0, atol=1e-4)


class TestPitfall07GradientScale:
    """The scale of the loss changes nothing; that a gradient of zero is said is in test_flat.py."""

    @pytest.mark.only(takes="loss")
    @pytest.mark.covered("scale", [1e-12, 1e-4, 1e6, 1e12])
    def test_scaled_loss(self, case: Case, norm: str, scale: float) -> None:
        model, x = mlp(dtype=torch.float32), images(12, dtype=torch.float32)
        y = labels(model, x)

        def margin(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
            return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None]).squeeze(1)

        plain = case(model, x, y, threat(norm), loss=margin)
        scaled = case(
            model, x, y, threat(norm), loss=lambda logits, y, targets: scale * margin(logits, y, targets)
        )
        assert torch.equal(scaled.success, plain.success)
        torch.testing.assert_close(scaled.x_adv, plain.x_adv, rtol=0, atol=1e-5)
