"""One evaluation asked for in two ways is one table: every kind of it, and every way."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastadv as fa
from fastadv.attacks import Beyond, Share, Signs, Unless
from fastadv.data import ImageSet
from fastadv.evaluation import Table, evaluate
from fastadv.evaluation.report import verdict
from fastadv.evaluation.row import groups
from fastadv.measure.bound import bound, takes
from tests.evaluation.nets import assert_same, contents

pytestmark = pytest.mark.slow
COUNT = 24
X = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(4))
BALL = fa.Linf(0.03)


class Net(nn.Module):
    """Linear in double precision, without finite logits for the first six images; noisy where asked for."""

    def __init__(self, width: int, noise: float = 0.0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(width, 64, generator=draw).double() / 4)
        self.noise = noise
        with torch.no_grad():
            self.weight -= self.weight.mean(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1).double() @ self.weight.T
        logits = logits + self.noise * torch.randn(logits.shape) if self.noise else logits
        return logits.masked_fill(torch.isin(x[:, 0, 0, :1], X[:6, 0, 0, 0]), torch.nan)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.net(x.roll(k, 3)) for k in range(4)], 2)


def own(model: Any, x: Tensor, y: Tensor) -> Any:
    return fa.attacks.fgsm(model, x, y, BALL).x_adv


PGD = partial(fa.attacks.pgd, threat=BALL, steps=3, restarts=2, seed=4)
SQUARE = partial(fa.attacks.square, threat=BALL, queries=20)
CLASSES = {
    "pgd": PGD,
    "square": SQUARE,
    "fmn": partial(fa.attacks.fmn, threat=fa.Linf(math.inf), steps=9),
    "deepfool": partial(fa.attacks.deepfool, threat=fa.L2(0.2)),
    "auto": partial(fa.attacks.autoattack, threat=BALL, version=["apgd-ce"]),
    "moved": partial(fa.attacks.apgd, threat=fa.Moved(1, 10), steps=3),
    "own": own,
}
OTHERS = {"pgd": PGD, "square": SQUARE}
# attacks, a model, and the criterion; labels are what the model says, but for every fifth sample
KINDS: dict[str, tuple[dict[str, Any], nn.Module, Any]] = {
    "classes": (CLASSES, Net(3), None),
    "random": (OTHERS, Net(3, noise=0.2), None),
    "tags": (OTHERS, Net(4), Signs()),
    "every tag": (OTHERS, Net(4), Share(1.0)),
    "map": (OTHERS, Dense(), Share(0.5)),
    "numbers": (OTHERS, Net(2), Beyond(0.4)),
    "rejecting": (OTHERS | {"fmn": CLASSES["fmn"], "own": own}, Net(3), Unless(2)),
}


def labels(kind: str) -> Tensor:
    _, model, _ = KINDS[kind]
    z = (Net(3) if kind == "random" else model)(X).nan_to_num().detach()
    if kind == "numbers":
        return z
    if "tag" in kind:
        y = (z > 0).long()
        y[::5] = 1 - y[::5]
        return y
    y = (z[:, :2] if kind == "rejecting" else z).argmax(1)
    y[::5] = (y[::5] + 1) % 2
    return y


def asked(kind: str, **options: Any) -> dict[str, Any]:
    attacks, model, criterion = KINDS[kind]
    arguments = {"model": model, "dataset": (X, labels(kind)), "attacks": attacks, "criterion": criterion}
    arguments |= {"batch_size": 6, "keep_samples": True, "indicators": False, "seed": 2}
    return arguments | {"draws": 3 if kind == "random" else 1} | options


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return {kind: evaluate(**asked(kind)) for kind in KINDS}


def of_batches(kind: str, folder: Path) -> Table:
    return evaluate(**asked(kind, batch_size=7))


def of_a_loader(kind: str, folder: Path) -> Table:
    return evaluate(**asked(kind, dataset=DataLoader(TensorDataset(X, labels(kind)), 4)))


def of_batches_of_tensors(kind: str, folder: Path) -> Table:
    y = labels(kind)
    return evaluate(**asked(kind, dataset=iter([(X[:9], y[:9]), (X[9:], y[9:])])))


def of_a_set(kind: str, folder: Path) -> Table:
    y = labels(kind)
    pairs = ImageSet(X, y, 3, "images") if y.ndim == 1 else [*zip(X, y, strict=True)]
    return evaluate(**asked(kind, dataset=pairs))


def resumed(kind: str, folder: Path) -> Table:
    """Stopped in the third batch, and a part is lost."""

    def stop(event: dict[str, Any]) -> None:
        if event["step"] > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(**asked(kind, run_dir=folder, on_event=stop))
    (folder / "part-00001-01.safetensors").unlink()
    return evaluate(**asked(kind, run_dir=folder, resume=True))


def grown(kind: str, folder: Path) -> Table:
    """By images, and by attacks, of which the last comes first."""
    attacks, _, _ = KINDS[kind]
    first = {name: attacks[name] for name in [*attacks][1:]}
    evaluate(**asked(kind, run_dir=folder, attacks=first, limit=12))
    return evaluate(**asked(kind, run_dir=folder, resume=True))


WAYS = [of_batches, of_a_loader, of_batches_of_tensors, of_a_set, resumed, grown]


PAIRS = [
    pytest.param(kind, WAYS[(place + turn) % 6], id=f"{kind}-{WAYS[(place + turn) % 6].__name__}")
    for place, kind in enumerate(KINDS)
    for turn in (1, 2, 3, 4)
]


@pytest.mark.parametrize(("kind", "way"), PAIRS)
def test_a_table_is_the_same(kind, way, tables, tmp_path):
    """Each kind in four of the ways, each way for four kinds; a random model draws once for a batch."""
    table, whole = way(kind, tmp_path), tables[kind]
    if way is of_batches:  # whose flags count the batches
        torch.testing.assert_close(contents(table)[0], contents(whole)[0], rtol=0, atol=0, equal_nan=True)
        assert [row.within for row in table.rows] == [row.within for row in whole.rows]
        assert table.extra == whole.extra
    else:
        assert_same(table, whole)
    assert any(row.broken.any() for row in whole.rows)
    assert 0 < whole.clean_accuracy < 1


def test_each_draw_of_a_model_that_draws_nothing_is_its_verdict() -> None:
    attacks = CLASSES | {name: partial(getattr(fa.attacks, name), threat=BALL) for name in ("fgsm", "fab")}
    attacks |= {"ddn": partial(fa.attacks.ddn, threat=fa.L2(math.inf), steps=9)}
    table = evaluate(**asked("classes", attacks=attacks, draws=3, batch_size=5))
    for row, broken in ((table, ~table.correct), *((row, row.broken) for row in table.rows)):
        right = table.correct & ~broken
        assert row.draws is None or row.draws.right.equal(3 * right)
        assert row.draws is None or row.draws.voted.equal(right)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "random"])
def test_an_attacks_own_result_a_curve_and_a_report_say_what_the_table_says(
    kind: str, tables: dict[str, Table]
) -> None:
    attacks, model, criterion = KINDS[kind]
    y, table, more = labels(kind), tables[kind], {} if criterion is None else {"criterion": criterion}
    for name in attacks.keys() - {"own"}:
        drawn = {"seed": 2} if takes(attacks[name], "seed") and bound(attacks[name], "seed") is None else {}
        out, row = attacks[name](model, X, y, **more, **drawn), table[name]
        assert torch.equal(out.success & out.correct, row.broken), name
        assert torch.equal(out.distance.double()[row.broken], row.distance[row.broken]), name
        assert (out.robust_accuracy, out.clean_accuracy) == (
            row.robust_accuracy if not row.unlimited else out.robust_accuracy, table.clean_accuracy,
        )  # fmt: skip
        if getattr(out, "costs", None):
            names = [*row.components.costs, ""]
            assert tuple(names[place] for place in row.components.by) == out.by
        alone = evaluate(**asked(kind, attacks={name: attacks[name]}))
        assert torch.equal(alone[name].broken, row.broken), "alone as beside others"
        if name == "pgd":
            assert f"{100 * alone.worst_case:.1f}%" in verdict.sentence(alone, groups(alone.rows)[0], None)
            assert alone.to_dict()["worst_case"] == pytest.approx(row.robust_accuracy)
    make = lambda radius: partial(PGD, threat=fa.Linf(radius))  # noqa: E731
    for data, size in (((X, y), COUNT), (DataLoader(TensorDataset(X, y), 4), 7)):
        curve = partial(fa.accuracy_against_radius, model, data, batch_size=size, criterion=criterion)
        accuracy = curve(make, [BALL.radius, 0.0]).accuracy.tolist()
        assert accuracy == pytest.approx([table.clean_accuracy, table["pgd"].robust_accuracy])
        if "fmn" in attacks:
            nearest = curve(minimum_norm=attacks["fmn"])
            assert nearest.accuracy == pytest.approx(fa.Curve.from_distances(table["fmn"].distance).accuracy)
