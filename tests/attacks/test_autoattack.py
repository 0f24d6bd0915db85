"""AutoAttack: what runs on which samples, and what it says of the model."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import AutoAttackResult, OutsideTopK, Status, autoattack
from fastadv.attacks.auto.run import Run
from fastadv.attacks.auto.versions import components
from fastadv.attacks.core.task import Task
from fastadv.attacks.core.trial import Trial
from fastadv.engine import freeze
from fastadv.evaluation import evaluate
from fastadv.threat import THREATS, Linf
from tests.defenses import Detach, Quantize, RootAtZero

from .contract.conftest import shorten, spied
from .nets import images, labeled, labels, linear, mlp, threat

pytestmark = pytest.mark.slow
# the most steps of each component: these nets need few
FEW = {"apgd": {"steps": 10}, "fab": {"steps": 5}, "pdpgd": {"steps": 20}, "square": {"queries": 100}}


# cuts the graph, or has a gradient of zero everywhere
HIDING = [Detach(), Quantize(50)]


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, FEW)


def run(
    model: Any, inside: Any, x: Tensor | None = None, **options: Any
) -> tuple[AutoAttackResult, Tensor, Tensor]:
    x = images(24) if x is None else x
    with torch.no_grad():
        y = model(x).argmax(1)
    return autoattack(model, x, y, inside, **options), x, y


@pytest.mark.parametrize(("version", "norm"), [("standard", "linf"), ("rand", "l2"), ("quick", "l1")])
def test_the_result_adds_up(version: Any, norm: str) -> None:
    """Each component attacks what is left; `by` names the one that broke a sample; calls are told."""
    model, x, y = labeled(mlp(5), images(24))
    y[:3] = (y[:3] + 1) % 5
    calls: list[tuple[str, int, int]] = []
    queries = {"square": {"standard": 5000, "quick": 200}.get(version, 0)}
    given = {"version": version, "on_progress": lambda *call: calls.append(call)}
    out = autoattack(model, x, y, threat(norm), **given, **({"eot": 2} if version == "rand" else {}))
    assert (out.status[:3] == Status.ALREADY_WRONG).all()
    left = 21
    for name, cost in out.costs.items():
        assert cost.samples == left
        assert (name, left, queries.get(name, 0)) in calls
        left -= cost.broken
        assert out.by.count(name) == cost.broken
        assert cost.forwards > 0
    assert [name for name, *_ in calls] == list(out.costs)
    assert left == int((~out.success).sum())
    assert [bool(name) for name in out.by] == (out.status == Status.BROKEN).tolist()
    assert 0 < int((out.status == Status.BROKEN).sum()) < 21
    assert out.forwards > sum(cost.forwards for cost in out.costs.values())
    assert out.backwards >= sum(cost.backwards for cost in out.costs.values())
    assert out.flags == ()
    assert out.notes == () or norm != "linf"


CE, DLR = ("apgd-ce", {"loss": "ce", "steps": 100}), ("apgd-dlr", {"loss": "dlr", "steps": 100})
SHARP = ("apgd-ce-sharp", {"loss": "ce_sharp", "steps": 100})
FAB = ("fab", {"steps": 100, "targeted": False, "classes": None})
FAB_T = ("fab-t", {"steps": 100, "targeted": True})
SQUARE = ("square", {"queries": 5000, "rescale": False})


def aimed(classes: int, steps: int = 100, **more: Any) -> tuple[str, dict[str, Any]]:
    return ("apgd-t", {"loss": "dlr-targeted", "steps": steps, "classes": classes, **more})


def several(name: str, given: dict[str, Any], count: int = 5) -> tuple[str, dict[str, Any]]:
    return name, {**given, "restarts": count}


def sharp(name: str, steps: int, *larger: float) -> tuple[str, dict[str, Any]]:
    return name, {"loss": "ce_sharp", "steps": steps, "larger": [*larger]}


MARGIN = ("apgd-margin", {"loss": "margin", "steps": 28, "larger": [2.0]})
VERSIONS: list[tuple[Any, str, int, list[tuple[str, dict[str, Any]]]]] = [
    ("screen", "linf", 12, [
        sharp("apgd-ce-sharp", 17, 1.5), aimed(3, 16, loss="margin-targeted", larger=[2.0]),
        sharp("second apgd-ce-sharp", 26, 2.0),
    ]),
    ("screen", "l1", 3, [
        sharp("apgd-ce-sharp", 17, 3.0, 2.0), aimed(2, 22, loss="margin-targeted", larger=[3.0, 2.0]),
        sharp("second apgd-ce-sharp", 26, 3.0, 2.0),
    ]),
    ("screen", "l2", 12, [sharp("apgd-ce-sharp", 17, 2.0), ("pdpgd", {"steps": 47}), MARGIN]),
    ("standard", "linf", 12, [CE, aimed(9), FAB_T, SQUARE]),
    ("standard", "linf", 2, [CE, aimed(1), FAB_T, SQUARE]),
    ("standard", "l1", 12, [several(*CE), aimed(5), FAB_T, SQUARE]),
    ("plus", "l2", 12, [several(*CE), several(*DLR), several(*FAB), SQUARE, aimed(9), FAB_T]),
    ("rand", "linf", 12, [SHARP, DLR]),
    ("robustvlm", "linf", 12, [several(*CE), aimed(9)]),
    ("robustvlm", "l2", 2, [several(*CE)]),
]  # fmt: skip


def test_the_components_of_the_versions() -> None:
    """Those of Croce & Hein 2020 and Schlarmann et al. 2024; restarts are 1 where not named."""
    for version, norm, classes, expected in VERSIONS:
        net, x = linear(classes), images(1, dtype=torch.float32)
        case = Task.of(freeze(net), x, labels(net, x), THREATS[norm](1e-6))
        parts = components(version, Run(Trial(case), 0))
        arguments = [{k: v for k, v in part.arguments.items() if (k, v) != ("restarts", 1)} for part in parts]
        assert list(zip([part.name for part in parts], arguments, strict=True)) == expected, version


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_screen_takes_at_most_200_passes_of_a_sample_and_no_queries(norm, count, monkeypatch):
    """At steps that it really has; of a criterion and targets, too, where no class can be chosen."""
    monkeypatch.undo()
    net, x = mlp(6), images(count)
    y, inside = labels(net, x), THREATS[norm](1e-6)
    for more in ({}, {"criterion": OutsideTopK(2)}, {"targets": (y + 1) % 6}):
        out = autoattack(net, x, y, inside, version="screen", indicators=False, **more)
        assert not out.success.any()
        assert 180 * len(x) < out.forwards + out.backwards <= 200 * len(x), more
        assert all(cost.backwards for cost in out.costs.values())


def test_quick_of_a_criterion_that_leads_to_no_class_begins_with_another_loss():
    net, x = linear(6), images(1, dtype=torch.float32)
    case = Task.of(freeze(net), x, labels(net, x), Linf(1e-6), criterion=OutsideTopK(2))
    names = [part.name for part in components("quick", Run(Trial(case), 0))]
    assert (names[:2], names[-1]) == (["apgd-ce-sharp", "apgd-margin"], "square")
    assert "apgd-t" not in names


STRONG = ["restarts apgd-margin", "restarts apgd-ce-sharp", "targets apgd-t", "restarts square"]


def test_strong_is_standard_and_more_on_what_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """With random draws of its own, and nothing where nothing is left."""
    calls = spied(monkeypatch, "square")
    out, x, y = run(mlp(3), Linf(1e-6), images(12), version="strong")
    seeds = {given["seed"] for _, given, _ in calls}
    alone = autoattack(mlp(3), x, y, Linf(1e-6))
    assert list(out.costs) == [*alone.costs, *STRONG]
    for name, cost in alone.costs.items():
        assert (cost.forwards, cost.broken) == (out.costs[name].forwards, out.costs[name].broken)
    assert torch.equal(out.x_adv, alone.x_adv)
    assert [out.costs[name].samples for name in STRONG] == [12] * len(STRONG)
    assert len(seeds) == 2
    all_, x, y = run(mlp(4), Linf(1.0), images(4), version="strong")
    alone = autoattack(mlp(4), x, y, Linf(1.0))
    assert all_.success.all()
    assert (all_.forwards, list(all_.costs)) == (alone.forwards, list(alone.costs))


def names(out: AutoAttackResult) -> set[str]:
    return {flag.split(":")[0] for flag in out.flags}


@pytest.mark.parametrize("layer", HIDING)
def test_a_model_without_gradients_is_left_to_square(layer: nn.Module) -> None:
    out, _, _ = run(nn.Sequential(layer, mlp(4)), threat("linf", 4))
    assert "zero_gradient" in names(out)
    if isinstance(layer, Detach):
        assert "square" not in names(out)  # no attack by gradients left what it broke
        assert set(out.by) == {"", "square"}
        assert {"apgd-ce: not run, because the model has no gradient"} <= set(out.notes)
    else:
        assert out.zero_gradient.all()


@pytest.mark.parametrize("layer", HIDING)
def test_the_screen_says_where_it_cannot_see(layer: nn.Module) -> None:
    out, _, _ = run(nn.Sequential(layer, mlp(4)), threat("linf", 4), version="screen")
    assert not out.success.all()
    assert "zero_gradient" in names(out)
    assert "zero_gradient" in out.indicators.flagged


def test_a_black_box_of_probabilities_has_no_flag() -> None:
    net, x = mlp(4), images(24)
    out = autoattack(lambda z: net(z).softmax(1).detach(), x, labels(net, x), threat("linf"), version="quick")
    assert out.flags == ()


@pytest.mark.parametrize("version", ["standard", "quick"])
def test_gradients_that_are_not_finite_are_told_although_square_needs_none(version: Any) -> None:
    out, _, _ = run(nn.Sequential(RootAtZero(), mlp(4)), threat("linf"), version=version)
    assert "square" in out.costs
    assert ((out.status == Status.FAILED) == ~out.success).all()
    assert not out.success.all()


@pytest.mark.parametrize("layer", HIDING)
def test_quick_searches_longer_where_no_gradient_leads(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that hides the gradient of bright images alone, the others get no more queries."""
    x, net = images(24), mlp(4)
    bright, hides = x[:, 0, 0, 0] > 0.5, nn.Sequential(layer, net)

    def patchy(x: Tensor) -> Tensor:
        return torch.where(x[:, :1, 0, 0] > 0.5, hides(x), net(x))

    calls = spied(monkeypatch, "square")
    out, _, y = run(patchy, Linf(0.02), x, version="quick")
    assert {"queries": 5000, "rescale": False}.items() <= calls[-1][1].items()
    left = torch.tensor([name in ("", "standard square") for name in out.by])
    assert "zero_gradient" in names(out)
    assert 0 < out.costs["standard square"].samples == int((left & bright).sum()) < int(left.sum())
    for model in (hides, nn.Sequential(RootAtZero(), net)):
        whole, _, y = run(model, Linf(0.02), x, version="quick")
        left = sum(name in ("", "standard square") for name in whole.by)
        assert whole.costs["standard square"].samples == left
        assert torch.equal(whole.success, labels(model, whole.x_adv) != y)


@pytest.mark.parametrize(("norm", "told"), [("linf", False), ("l2", True), ("l1", True)])
def test_standard_says_what_strong_adds_where_it_left_samples(norm: str, told: bool) -> None:
    words = f'version="strong" also minimizes the {norm.upper()} norm, which may break more'
    for radius, left in ((1e-6, True), (16.0, False)):
        out, _, _ = run(mlp(4), THREATS[norm](radius), images(4))
        assert out.success.all() != left
        assert out.notes == (words,) * (told and left)


@pytest.mark.parametrize("version", [["square", "apgd-ce"], ["square"]])
def test_square_is_no_flag_where_gradients_break_the_same(version: Any) -> None:
    """It breaks many samples, though none that attacks by gradients leave."""
    model = mlp(5, dtype=torch.float32)
    out, x, y = run(model, Linf(0.2), images(16, dtype=torch.float32), version=version)
    assert out.costs["square"].broken > 1
    assert not [flag for flag in out.flags if flag.startswith("square")]
    assert "square" not in out.indicators.flagged
    attack = partial(autoattack, threat=Linf(0.2), version=version)
    table = evaluate(model, (x, y), {"autoattack": attack}, batch_size=6)
    assert not [flag for flag in table["autoattack"].flags if flag.startswith("square")]


def test_the_first_ones_strongest_point_stands_for_samples_that_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spied(monkeypatch, "apgd")
    out, x, _ = run(mlp(5), threat("l2", 1e-3), images(8), version=["apgd-ce", "apgd-margin", "square"])
    assert not out.success.any()
    ends = [found.unfinished.float() for *_, found in calls]
    assert torch.equal(out.unfinished, torch.fmin(*ends))
    assert not torch.equal(*map(torch.nan_to_num, ends))
    first, _, _ = run(mlp(5), threat("l2", 1e-3), images(8), version=["apgd-ce"])
    assert torch.equal(out.x_adv, first.x_adv)
    assert (out.x_adv != x).flatten(1).any(1).all()


def test_a_randomized_function_without_a_gradient_is_left_to_square():
    net, x = mlp().eval(), images(6)
    y = net(x).argmax(1)

    def noisy(x, draw):
        with torch.no_grad():
            logits = net(x)
            return logits + 0.05 * torch.randn(logits.shape, generator=draw)

    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    nets = [partial(noisy, draw=draw) for draw in draws]
    out = [autoattack(net, x, y, Linf(0.1), version="quick", seed=seed) for seed, net in enumerate(nets)]
    assert all("square" in result.costs for result in out)
    assert all(any(flag.startswith("denied: ") for flag in result.flags) for result in out)


def test_square_says_before_what_it_costs(capfd: pytest.CaptureFixture[str]) -> None:
    model, x, y = labeled(mlp(), images(6))
    out = autoattack(model, x, y, threat("linf", 0.1), version=["apgd-ce", "square"], progress=True)
    lines = capfd.readouterr().err.splitlines()
    left = out.costs["square"].samples
    expected = f"square: {left} samples left, each up to 5,000 queries: {5000 * left:,} passes"
    assert lines.index(expected) < [line.startswith("square: robust") for line in lines].index(True)
