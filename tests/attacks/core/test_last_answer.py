"""Steps over points where the model has no finite logits, and what such points leave alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import Status, core
from fastadv.threat import THREATS, Linf
from tests.attacks import nets
from tests.attacks.contract.cases import NAMED, norm_of

RADIUS = {"linf": 0.6, "l2": 2.4, "l1": 8.0, "l0": 10}
# short, but long enough to break every sample where all logits are finite
SETTINGS: dict[str, dict[str, Any]] = {
    "pgd": {}, "bim": {}, "mim": {}, "apgd": {"steps": 30}, "fmn": {"steps": 40}, "ddn": {"steps": 40},
    "deepfool": {}, "fab": {"steps": 20}, "cw": {"steps": 40, "searches": 3}, "pdpgd": {"steps": 40},
    "pdgd": {"steps": 40}, "ead": {"steps": 20, "searches": 3}, "sigma_zero": {"steps": 40},
    "lbfgs": {"steps": 20, "searches": 3},
}  # fmt: skip
BUDGET = "pgd", "bim", "mim", "apgd"
WIDTHS = (0.35, torch.float32), (0.05, torch.float32)
HALF = (0.35, torch.float16), (0.35, torch.bfloat16)


class Band(nn.Module):
    """NaN logits where the two largest are nearer to each other than `width`: on both sides of a boundary."""

    def __init__(self, width: float, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.width = net or nets.mlp(dtype=torch.float32), width

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        first, second = logits.topk(2, 1).values.unbind(1)
        return torch.where((first - second < self.width)[:, None], torch.nan, logits)


def outside(width: float, count: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = Band(width).eval(), nets.images(4 * count, dtype=torch.float32)
    x = x[Band(0.36)(x).isfinite().all(1)][:count]
    assert len(x) == count
    return model, x, model(x).argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_band_without_answers_at_the_boundary_is_stepped_over(name: str) -> None:
    for width, dtype in (*WIDTHS, *(HALF if name in ("pgd", "fmn") else ())):
        norm = "linf" if (width, dtype) in HALF else norm_of(NAMED[name], "band", width)
        model, x, y = outside(width)
        model, x = model.to(dtype), x.to(dtype)
        threat = THREATS[norm](RADIUS[norm] if name in BUDGET else float("inf"))
        out = fa.attacks.ATTACKS[name].run(model, x, y, threat, **SETTINGS[name])
        assert out.success.sum() > len(x) / 2, width
        assert out.x_adv.isfinite().all(), width
        logits = model(out.x_adv[out.success].to(dtype))
        assert logits.isfinite().all(), width
        assert (logits.argmax(1) != y[out.success]).all(), width
        assert set(out.status[~out.success].tolist()) <= {Status.FAILED}, width


class Far(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        there = x[:, 0] > 1
        logits = torch.stack([5 + 0 * x[:, 0], x.square().sum(1)], 1)
        return torch.where(there[:, None], torch.nan, logits)


def looks(rule: core.Rule, x: Tensor, loss: Any = lambda z, y, targets: z[:, 1] - z[:, 0]) -> Any:
    return core.run(Far(), x, torch.zeros(len(x), dtype=torch.long), Linf(9.0, (-9.0, 9.0)), rule, loss=loss)


def test_a_point_without_finite_logits_repeats_the_last_answer() -> None:
    x, seen, rows = torch.tensor([[0.5, 0.0], [0.5, 1.0]]), [], []
    places = [[0.5, 0.0], [1.0, 1.0]], *[[[2.0, 0.0], [0.0, 1.0]]] * 3, [[1.0, 0.0], [2.0, 0.0]]

    def rule(search: core.Search) -> None:
        for place in places:
            seen.append(search.gradient(torch.tensor(place)))
        for place in places[:2]:
            rows.append(search.jacobian(torch.tensor(place), torch.eye(2).expand(2, 2, 2)))

    out = looks(rule, x)
    torch.testing.assert_close(rows[1].logits, torch.tensor([[5.0, 0.25], [5.0, 1.0]]))
    torch.testing.assert_close(rows[1].gradients[:, 1], torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    for look in seen[1:4]:
        torch.testing.assert_close(look.loss, torch.tensor([-4.75, -4.0]))
        torch.testing.assert_close(look.logits, torch.tensor([[5.0, 0.25], [5.0, 1.0]]))
        torch.testing.assert_close(look.gradient, torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        assert not look.adversarial.any()
    torch.testing.assert_close(seen[-1].gradient, torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    # a substitute for an answer does not compete for the best point
    assert out.status.tolist() == [Status.FAILED] * 2
    torch.testing.assert_close(out.x_adv, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))


def test_where_there_was_no_answer_the_way_back_is_halved() -> None:
    x, seen = torch.tensor([[0.5, 0.0], [0.5, 1.0]]), []

    def rule(search: core.Search) -> None:
        places = torch.tensor([[1.5, 3.0], [1.5, 3.0]])
        seen.append(search.gradient(places))
        seen.append(search.jacobian(places, torch.eye(2).expand(2, 2, 2)))

    looks(rule, x)
    for look in seen:
        torch.testing.assert_close(look.x_adv, torch.tensor([[1.0, 1.5], [1.0, 2.0]]))
    assert not seen[0].gradient.any()
    assert not seen[1].gradients.any()


def test_the_last_answer_stays_with_its_sample() -> None:
    seen = []

    def rule(search: core.Search) -> None:
        search.gradient(torch.tensor([[0.5, 0.0], [1.0, 1.0]]))
        search.leave(torch.tensor([True, False]))
        seen.append(search.gradient(torch.tensor([[0.5, 0.0], [2.0, 0.0]])).gradient)

    looks(rule, torch.tensor([[0.5, 0.0], [0.5, 1.0]]))
    torch.testing.assert_close(seen[0], torch.tensor([[2.0, 2.0]]))


def test_another_run_knows_no_answer_of_the_last() -> None:
    seen = []

    def rule(search: core.Search) -> None:
        search.gradient(torch.tensor([[0.5, 1.0]]))
        search.forget()
        seen.append(search.gradient(torch.tensor([[1.5, 3.0]])).gradient)

    looks(rule, torch.tensor([[0.5, 0.0]]))
    assert not seen[0].any()
