"""Steps over points where the model has no finite logits, and what such points leave alone."""

from functools import partial
from typing import Any, ClassVar

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
CASES = [
    (name, norm_of(NAMED[name], "band", width), torch.float32, width)
    for name in SETTINGS
    for width in (0.35, 0.05)
]
CASES += [(name, "linf", dtype, 0.35) for name in ("pgd", "fmn") for dtype in (torch.float16, torch.bfloat16)]


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
    logits = Band(0.36)(x)
    x = x[logits.isfinite().all(1)][:count]
    assert len(x) == count
    return model, x, model(x).argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm", "dtype", "width"), CASES)
def test_a_band_without_answers_at_the_boundary_is_stepped_over(
    name: str, norm: str, dtype: torch.dtype, width: float
) -> None:
    model, x, y = outside(width)
    model, x = model.to(dtype), x.to(dtype)
    threat = THREATS[norm](RADIUS[norm] if name in BUDGET else float("inf"))
    out = fa.attacks.ATTACKS[name].run(model, x, y, threat, **SETTINGS[name])
    assert out.success.sum() > len(x) / 2
    assert out.x_adv.isfinite().all()
    logits = model(out.x_adv[out.success])
    assert logits.isfinite().all()
    assert (logits.argmax(1) != y[out.success]).all()
    assert set(out.status[~out.success].tolist()) <= {Status.FAILED}


class Far(nn.Module):
    """The logits 5 and the sum of squares, NaN where the first coordinate is beyond 1."""

    def forward(self, x: Tensor) -> Tensor:
        there = x[:, 0] > 1
        logits = torch.stack([5 + 0 * x[:, 0], x.square().sum(1)], 1)
        return torch.where(there[:, None], torch.nan, logits)


def margin(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """A loss of one's own, for which looks are taken one by one."""
    return logits[:, 1] - logits[:, 0]


def looks(rule: core.Rule, x: Tensor, loss: Any = margin) -> Any:
    return core.run(Far(), x, torch.zeros(len(x), dtype=torch.long), Linf(9.0, (-9.0, 9.0)), rule, loss=loss)


@pytest.mark.parametrize("narrow", [False, True])
def test_a_point_without_finite_logits_repeats_the_last_answer(narrow: bool) -> None:
    x, found, rows = torch.tensor([[0.5, 0.0], [0.5, 1.0]]), [], []
    places = [[0.5, 0.0], [1.0, 1.0]], *[[[2.0, 0.0], [0.0, 1.0]]] * 3, [[1.0, 0.0], [2.0, 0.0]]

    def rule(search: core.Search) -> None:
        for place in places:
            found.append(search.gradient(torch.tensor(place), narrow=narrow))
        for place in places[:2]:
            rows.append(search.jacobian(torch.tensor(place), torch.eye(2).expand(2, 2, 2)))

    out = looks(rule, x)
    torch.testing.assert_close(rows[1].logits, torch.tensor([[5.0, 0.25], [5.0, 1.0]]))
    torch.testing.assert_close(rows[1].gradients[:, 1], torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    for look in found[1:4]:
        torch.testing.assert_close(look.loss, torch.tensor([-4.75, -4.0]))
        torch.testing.assert_close(look.logits, torch.tensor([[5.0, 0.25], [5.0, 1.0]]))
        torch.testing.assert_close(look.gradient, torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        assert not look.adversarial.any()
    torch.testing.assert_close(found[-1].gradient, torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    # what stands in for an answer does not compete for the best point
    assert out.status.tolist() == [Status.FAILED] * 2
    torch.testing.assert_close(out.x_adv, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))


def test_where_there_was_no_answer_the_way_back_is_halved() -> None:
    x, found = torch.tensor([[0.5, 0.0], [0.5, 1.0]]), []

    def rule(search: core.Search) -> None:
        places = torch.tensor([[1.5, 3.0], [1.5, 3.0]])
        found.append(search.gradient(places))
        found.append(search.jacobian(places, torch.eye(2).expand(2, 2, 2)))

    looks(rule, x)
    for look in found:
        torch.testing.assert_close(look.x_adv, torch.tensor([[1.0, 1.5], [1.0, 2.0]]))
    assert not found[0].gradient.any()
    assert not found[1].gradients.any()


class Islands(nn.Module):
    """Two classes that meet at 0.9, without an answer where x lies in one of the holes."""

    seen: ClassVar[list[float]] = []  # by all copies

    def __init__(self, *holes: tuple[float, float]) -> None:
        super().__init__()
        self.holes = holes
        self.seen.clear()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach()[0, 0].item())
        hole = torch.stack([(x[:, 0] > low) & (x[:, 0] < high) for low, high in self.holes]).any(0)
        return torch.where(hole[:, None], torch.nan, torch.stack([0.9 - x[:, 0], x[:, 0] - 0.9], 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("general", [False, True])
def test_steps_cross_a_band_and_come_back_from_a_start_without_answer(norm: str, general: bool) -> None:
    threat, x, y = THREATS[norm](1.0, (-9.0, 9.0)), torch.zeros(1, 1), torch.tensor([0])
    options: dict[str, Any] = {"stop_early": False, "loss": "margin", "step_size": 0.25}
    options |= {"mask": torch.ones(1, 1, dtype=torch.bool)} if general else {}
    model = Islands((0.2, 0.9))
    out = fa.attacks.pgd(model, x, y, threat, steps=4, random_start=False, **options)
    assert out.status.tolist() == [Status.BROKEN]
    steps = [each for each in model.seen if each]
    torch.testing.assert_close(torch.tensor(steps[:4]), torch.tensor([0.25, 0.5, 0.75, 1.0]))
    model = Islands((-9.0, -0.1), (0.1, 9.0))
    fa.attacks.pgd(model, x, y, threat, steps=6, seed=1, **options)
    start, *way = [each for each in model.seen if each]
    halves = next(k for k in range(9) if abs(start / 2**k) <= 0.1)
    assert halves > 1
    expected = [start / 2**k for k in range(1, halves + 1)]
    torch.testing.assert_close(torch.tensor(way[:halves]), torch.tensor(expected))
    assert abs(way[halves] - way[halves - 1] - 0.25) < 1e-6  # on along the first gradient


def nan_near(count: int = 20) -> tuple[nn.Module, Tensor, Tensor]:
    """A net of images with black pixels that has no answer at many random starts."""
    x = nets.images(400, dtype=torch.float32)
    x = torch.where(x < 0.4, 0.0, x)
    model = Band(0.4).eval()
    x = x[Band(0.41)(x).isfinite().all(1)][:count]
    return model, x, model(x).argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), [("pgd", "linf"), ("mim", "l2"), ("apgd", "linf"), ("apgd", "l2")])
def test_no_sample_knows_how_its_mates_are_searched(name: str, norm: str) -> None:
    """One question, asked alone, in batches, behind a mask that hides nothing, in a table, and frozen."""
    model, x, y = nan_near()
    threat, ids = THREATS[norm](RADIUS[norm]), torch.arange(len(x))
    run = partial(fa.attacks.ATTACKS[name].run, steps=20, threat=threat)

    def together(size: int, model: Any = model, **options: Any) -> Tensor:
        return torch.cat([run(model, x[i], y[i], ids=i, **options).x_adv for i in ids.split(size)])

    whole, mask = together(20), torch.ones_like(x[:1], dtype=torch.bool)
    for other in (together(1), together(7), together(20, mask=mask), together(20, fa.freeze(model))):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-6)
    table = fa.evaluate(model, (x, y), {name: run}, batch_size=8, keep_samples=True)
    broken = table[name].broken
    assert broken.sum() > len(x) / 2
    torch.testing.assert_close(table.samples.x_adv[broken], whole[broken], rtol=0, atol=1e-6)
    assert model(threat.random_start(x, ids=ids)).isnan().any(1).sum() > 3


def test_another_run_knows_no_answer_of_the_last() -> None:
    found = []

    def rule(search: core.Search) -> None:
        search.gradient(torch.tensor([[0.5, 1.0]]))
        search.forget()
        found.append(search.gradient(torch.tensor([[1.5, 3.0]])).gradient)

    looks(rule, torch.tensor([[0.5, 0.0]]))
    assert not found[0].any()
