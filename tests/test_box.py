"""Data in the box of their threat: tables, audio and images give what the same data give in [0, 1]."""

import math
from functools import partial
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastadv as fa
from fastadv.data.construct import fixed_shift, non_robust, random_target, robust
from fastadv.evaluation.report.page import report
from tests.refusals import refuses

KINDS = {
    "table": ((5,), (-3.0, 5.0)), "audio": ((1, 24), (-1.0, 1.0)),
    "bytes": ((3, 8, 8), (0.0, 255.0)), "gray": ((1, 8, 8), (-0.5, 0.5)),
}  # fmt: skip
FREE, ONE = (-math.inf, math.inf), 1.1 / 40  # no box; a sample whose logits nearly tie


class Back(nn.Module):
    """A net of data in [0, 1], which takes them from another box."""

    def __init__(self, net: nn.Module, low: float, wide: float) -> None:
        super().__init__()
        self.net, self.low, self.wide = net, low, wide

    def forward(self, x: Tensor) -> Any:
        return self.net((x - self.low) / self.wide)


def made(kind: str, *hidden: int) -> Any:
    """A net, the same in the box, data in [0, 1] and in the box, and the labels, most of them the net's."""
    (shape, (low, high)), draw = KINDS[kind], torch.Generator().manual_seed(3)
    sizes = [math.prod(shape), *hidden, 3]
    *first, last = (nn.Linear(a, b) for a, b in pairwise(sizes))
    net = nn.Sequential(nn.Flatten(), *first, *[nn.ReLU()] * len(first), last).eval()
    unit = torch.randint(0, 256, (40, *shape), generator=draw) / 255
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) / weight.shape[-1] ** 0.5)
        last.bias -= net(unit).mean(0)  # so that there are all classes, and none is far
        y = net(unit).argmax(1)
    y[::8] = torch.arange(5) % 3
    return net, Back(net, low, high - low), unit, low + (high - low) * unit, y


def ball(kind: str, radius: float = 0.06, norm: Any = fa.Linf, box: Any = None) -> Any:
    low, high = KINDS[kind][1]
    return norm(radius * (high - low), box=box or (low, high))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_is_that_of_the_data_in_unit(kind: str, tmp_path: Path) -> None:
    net, model, unit, x, y = made(kind, 16)
    names, threat = ["fgsm", "pgd", "apgd"], ball(kind)
    wanted = fa.evaluate(net, (unit, y), names, threat=fa.Linf(0.06))
    bound = {name: partial(getattr(fa.attacks, name), threat=threat) for name in names}
    given = {"attacks": bound} if kind in ("table", "bytes") else {"attacks": names, "threat": threat}
    table = fa.evaluate(model, DataLoader(TensorDataset(x, y), 16), keep_samples=True, **given)
    assert table.clean_accuracy == wanted.clean_accuracy
    for row, other in zip(table.rows, wanted.rows, strict=True):
        assert row.robust_accuracy == pytest.approx(other.robust_accuracy, abs=ONE)
        assert row.robust_accuracy < table.clean_accuracy
    report(table, tmp_path / "report.html", model=model)
    assert fa.evaluate(model, (x, y), threat=threat).clean_accuracy == wanted.clean_accuracy
    wide = fa.evaluate(model, (x, y), "fgsm", threat=ball(kind, box=FREE))
    assert wide.rows[0].robust_accuracy <= wanted.rows[0].robust_accuracy + ONE
    tried = lambda radius: partial(fa.attacks.pgd, threat=threat.with_radius(radius))  # noqa: E731
    curve = fa.accuracy_against_radius(model, (x, y), tried, [0, threat.radius])
    assert curve.accuracy == pytest.approx([wanted.clean_accuracy, wanted["pgd"].robust_accuracy], abs=ONE)
    nearest = partial(fa.attacks.ddn, threat=ball(kind, math.inf, fa.L2), steps=20)
    assert fa.accuracy_against_radius(model, (x, y), nearest).accuracy[-1] < wanted.clean_accuracy


@pytest.mark.slow
def test_another_box_is_another_run(tmp_path: Path) -> None:
    _, model, _, *data = made("audio", 16)
    boxes = ((-1.0, 1.0), (-1.0, 1.5), FREE)
    calls = [
        lambda k, **to: fa.evaluate(model, data, "fgsm", threat=fa.Linf(0.1, box=boxes[k]), **to),
        lambda k, **to: fa.train.fit(model, data, "fgsm", threat=fa.Linf(0.1, box=boxes[k]), epochs=1, **to),
    ]
    for place, call in enumerate(calls):
        call(0, run_dir=tmp_path / str(place))
        call(0, run_dir=tmp_path / str(place), resume=True)
        for other in (1, 2):
            refuses(r"another .*box", call, other, run_dir=tmp_path / str(place), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "recipe"),
    list(zip(KINDS, cycle([fa.train.PGDTraining, fa.train.TRADES, fa.train.FreeTraining]))),
)
def test_training_is_that_on_the_data_in_unit(kind: str, recipe: Any) -> None:
    reports = []
    for place, threat in enumerate((fa.Linf(0.06), ball(kind))):
        data = made(kind, 16)
        pairs = data[2 + place], data[4]
        tested = {"test_set": pairs, "test_attacks": "fgsm", "threat": threat}
        reports += fa.train.fit(data[place], pairs, recipe(threat), epochs=1, batch_size=8, **tested)
    wanted, got = reports
    assert got.loss == pytest.approx(wanted.loss, abs=1e-4)
    assert got.robust_accuracy == pytest.approx(wanted.robust_accuracy, abs=ONE)
    assert fa.train.fit(data[1], pairs, "standard", threat=ball(kind), epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "build"), list(zip(KINDS, cycle([robust, non_robust, random_target, fixed_shift])))
)
def test_a_construction_is_that_of_the_data_in_unit(kind: str, build: Any, tmp_path: Path) -> None:
    net, model, unit, x, y = made(kind)
    (low, high), radius = KINDS[kind][1], 0.4 if build in (random_target, fixed_shift) else math.inf
    for options in [{}] if radius < 1 else [{}, {"start": "noise"}]:
        wanted = build(net, TensorDataset(unit, y), threat=fa.L2(radius), steps=4, step_size=0.1, **options)
        how = {"threat": ball(kind, radius, fa.L2), "steps": 4, "step_size": 0.1 * (high - low)}
        got = build(model, TensorDataset(x, y), **how, **options)
        assert torch.allclose((got.x - low) / (high - low), wanted.x, atol=1e-5)
    got.save(tmp_path)
    again = fa.data.load_constructed(tmp_path)
    assert (again.box, again.shape) == ((low, high), KINDS[kind][0])
    assert fa.train.fit(model, again.subset([0, 3, 5]), "standard", epochs=1)  # its box is known
    if x.ndim == 4:
        fa.figures.thumbnails(got, TensorDataset(x, y), tmp_path / "seen.png")


def test_data_outside_the_box_are_refused_by_its_name() -> None:
    _, model, _, x, y = made(kind := "bytes")
    narrow, whole = fa.Linf(0.1, box=(0.25, 0.5)), fa.Linf(8, box=(0, 255))
    attacks = {"a": partial(fa.attacks.fgsm, threat=ball(kind)), "b": partial(fa.attacks.fgsm, threat=narrow)}
    calls = {
        "pixels in .0, 1., got .*box=": lambda: fa.evaluate(model, (x, y)),
        r"in .0.25, 0.5., the box of attacks\['b'\]": lambda: fa.evaluate(model, (x, y), attacks),
        "the box of the recipe": lambda: fa.train.fit(model, (x, y), "pgd", threat=narrow, epochs=1),
        "in .0, 1., got": lambda: fa.certify.smooth(model, (x, y), 0.25),
        "5., got": lambda: robust(model, TensorDataset(x, y), steps=1, step_size=1, threat=narrow),
        "got uint8, which is served": lambda: fa.evaluate(model, (x.byte(), y), "fgsm", threat=whole),
    }
    for said, call in calls.items():
        refuses(said, call)


@pytest.mark.slow
def test_pictures_and_sets_know_their_box() -> None:
    _, _, unit, x, y = made("gray")
    assert torch.allclose(fa.figures.Strip("", x, box=(-0.5, 0.5)).images, unit)
    assert torch.allclose(fa.figures.Strip("", 8 * unit, difference=True, box=(-4, 4)).images, unit)
    assert (fa.train.augment.random_resized_crop(x - 5, ids=torch.arange(40), seed=0) < -4).all()
    held = fa.data.ImageSet(x, y, 3, "held", box=(-0.5, 0.5)).only([0, 2])
    refuses(r"held.*in \[0, 1\]", next, fa.data.batches(held, 4))
