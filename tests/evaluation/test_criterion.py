"""Evaluations by a criterion of other outputs than classes."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fastadv as fa
from fastadv.attacks import Beyond, OutsideTopK, Share, Signs, Unless, WrongBy
from fastadv.errors import InputError
from fastadv.evaluation.sums import ratio, worst

X = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(3))
torch.manual_seed(0)
TAGS = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
DENSE = nn.Conv2d(3, 3, 3, padding=1).eval()
PGD = partial(fa.attacks.pgd, steps=3)


def labels(model: nn.Module) -> Tensor:
    z = model(X)
    return (z > 0).long() if model is TAGS else z.argmax(1)


def test_accuracy_is_the_share_of_samples_that_are_right_by_the_criterion() -> None:
    y = labels(TAGS)
    y[0, 0] = 1 - y[0, 0]  # one label of one sample is wrong without an attack
    options = {"threat": fa.Linf(0.02), "criterion": Signs()}
    table = fa.evaluate(TAGS, (X, y), {"pgd": PGD}, **options)
    assert table.clean_accuracy == 0.9
    assert table.extra == {}  # a search that ends at the first wrong label lowers no mean over labels
    assert table["pgd"].threat.radius == 0.02
    right = (TAGS(PGD(TAGS, X, y, **options).x_adv) > 0) == (y > 0)
    assert table["pgd"].robust_accuracy == pytest.approx(right.all(1).double().mean().item())
    options["criterion"] = Share(1.0)
    table = fa.evaluate(TAGS, (X, y.float()), {"pgd": PGD}, **options)
    assert table.extra == {"label accuracy": pytest.approx(39 / 40)}
    right = (TAGS(PGD(TAGS, X, y, **options).x_adv) > 0) == (y > 0)
    assert table["pgd"].extra["label accuracy"] == pytest.approx(right.double().mean().item())
    assert "label accuracy" in str(table)
    assert table.to_dict()["attacks"][0]["extra"] == table["pgd"].extra


COUNTED = {
    Signs("all"): "not all tags wrong", Signs(2): "under 2 tags wrong", Signs(): "accuracy",
    Share(1.0): "not all wrong", Share(0.75): "under 75% wrong", Share(0.251): "under 25.1% wrong",
    Share(1e-9): "under 1e-07% wrong", Share(1 - 1e-9): "under 99.9999999% wrong", Beyond(0.5): "within 0.5",
}  # fmt: skip


def test_a_share_of_samples_says_what_it_counts() -> None:
    assert {criterion: criterion.counted for criterion in COUNTED} == COUNTED
    for criterion, y in ((Signs(2), labels(TAGS)), (Beyond(0.5), TAGS(X).detach())):
        table = fa.evaluate(TAGS, (X, y), {"pgd": PGD}, threat=fa.Linf(0.02), criterion=criterion)
        assert table.cells()[0][1] == COUNTED[criterion]
        assert any(f"{COUNTED[criterion]} " in line for line in str(table).splitlines())


def by_hand(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int = 40) -> Tensor:
    """Sign steps on the sum of all binary cross-entropies; return the labels [B, K] that are left right."""
    away, entropy = torch.zeros_like(x), nn.functional.binary_cross_entropy_with_logits
    target, weight = y.clamp_min(0).double(), (y >= 0).double()
    for _ in range(steps):
        logits = model((x + away.requires_grad_()).clamp(0, 1))
        value = entropy(logits, target, weight=weight, reduction="sum")
        (gradient,) = torch.autograd.grad(value, away)
        away = (away.detach() + radius / 8 * gradient.sign()).clamp(-radius, radius)
    return ((model((x + away).clamp(0, 1)) > 0) == (y > 0))[y >= 0]


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_a_tagger_is_no_better_than_by_hand(ignored: bool) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 5)).double().eval()
    x = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = (net(x.double()) > 0).long()
    y[::2, 1] = -1 if ignored else 1 - y[::2, 1]
    model = nn.Sequential(Doubled(), net).eval()
    attacks = ["pgd:steps=40", "apgd:steps=40"]
    run = partial(fa.evaluate, model, attacks=attacks, threat=fa.Linf(0.03), indicators=False)
    table = run((x, y), criterion=Share(1.0))
    right = by_hand(model, x, y, 0.03).double().mean().item()
    assert 0.05 < right < 0.95
    for row in table.rows:
        assert row.extra["label accuracy"] <= right + 0.02
    assert "attacks can reach worse" not in str(table)
    assert "label accuracy" not in str(run((x, y.clamp_min(0)), criterion=Signs()))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


@pytest.mark.slow
def test_the_error_of_numbers_does_not_depend_on_the_tolerance() -> None:
    torch.manual_seed(2)
    numbers = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Tanh(), nn.Linear(12, 2)).eval()
    y = numbers(X).detach() + 0.1
    costs = {"pgd": {"steps": 10}, "apgd": {"steps": 10}, "mim": {"steps": 10}, "square": {"queries": 120}}
    costs["spsa"] = {"queries": 300}
    attacks = {name: partial(getattr(fa.attacks, name), **cost) for name, cost in costs.items()}
    run = partial(fa.evaluate, numbers, (X, y), attacks, threat=fa.Linf(0.05), indicators=False)
    near = run(criterion=Beyond(5.0))
    for tolerance in (10.0, 1e9, 1e30, float("inf")):
        table = run(criterion=Beyond(tolerance))
        assert table.extra["MAE"] == pytest.approx(0.1) == table.extra["RMSE"]
        for row, other in zip(table.rows, near.rows, strict=True):
            assert row.extra == other.extra
            assert row.extra["RMSE"] >= row.extra["MAE"] > 0.11
        assert table.cells()[1][-2:] == ["0.1", "0.1"]
        assert "attacks can reach worse" not in str(table)
    stopped = str(run(criterion=Beyond(0.15)))
    assert "MAE, RMSE: attacks can reach worse" in stopped
    assert "criterion=Beyond(inf)" in stopped


def test_pixels_and_mean_iou_are_those_of_a_count_by_hand() -> None:
    y = labels(DENSE)
    y[:, 0] = 255
    options = {"threat": fa.Linf(0.05), "criterion": Share(1.0, ignore=255)}
    table = fa.evaluate(DENSE, (X, y), {"pgd": PGD}, **options)
    decided, counts = DENSE(PGD(DENSE, X, y, **options).x_adv).argmax(1), y != 255
    extra = table["pgd"].extra
    right = ((decided == y) & counts).sum().item()
    assert extra["pixel accuracy"] == pytest.approx(right / counts.sum().item())
    ratios = []
    for k in range(3):
        both = ((decided == k) & (y == k) & counts).sum().item()
        ratios.append(both / (((decided == k) | (y == k)) & counts).sum().item())
    assert extra["mean IoU"] == pytest.approx(sum(ratios) / 3)
    assert table.extra == {"pixel accuracy": 1.0, "mean IoU": 1.0}


@pytest.mark.parametrize("data", [X, (X, None), DataLoader(X, 4)], ids=["tensor", "pair", "loader"])
def test_a_criterion_without_labels_takes_images_alone(data: object) -> None:
    options = {"threat": fa.Linf(0.02), "criterion": Beyond(0.14)}
    table = fa.evaluate(TAGS, data, {"pgd": PGD}, **options)
    assert table.clean_accuracy == 1
    moved = (TAGS(PGD(TAGS, X, None, **options).x_adv) - TAGS(X)).norm(dim=1)
    assert torch.equal(table["pgd"].broken, moved > 0.14)
    assert 0 < table["pgd"].robust_accuracy < 1
    with pytest.raises(InputError, match="images and labels"):
        fa.evaluate(TAGS, X, {"pgd": PGD}, threat=fa.Linf(0.02))


def test_the_worst_of_several_attacks_is_chosen_image_by_image() -> None:
    # two images, two classes: columns are (intersection, union)
    one = torch.tensor([[[4.0, 0.0], [4.0, 4.0]], [[4.0, 4.0], [4.0, 4.0]]]).double()
    other = torch.tensor([[[2.0, 2.0], [4.0, 4.0]], [[1.0, 4.0], [4.0, 4.0]]]).double()
    assert ratio(one) == pytest.approx((8 / 8 + 4 / 8) / 2)
    # the first image stays with either (both give 3/4 in sum), the second falls to (1, 4)
    assert worst([one, other]) == pytest.approx((5 / 8 + 4 / 8) / 2)
    # images without the second class, which the other attack makes the model see: it then counts, with 0
    one = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [4.0, 0.0]]]).double()
    other = torch.tensor([[[1.0, 0.0], [2.0, 1.0]], [[2.0, 0.0], [4.0, 0.0]]]).double()
    assert (ratio(one), ratio(other)) == (2 / 6, 3 / 6 / 2)
    assert worst([one, other]) == worst([other, one]) == 2 / 6 / 2
    single = [torch.rand(5, 1, 1).double() for _ in range(3)]
    parts = [torch.cat([sums, torch.ones_like(sums)], 1) for sums in single]
    assert worst(parts) == pytest.approx(torch.cat(single, 1).amin(1).mean().item())
    # Errors: each sample has its worst
    sums = [torch.tensor([[[error], [1.0]] for error in errors]) for errors in ((1.0, 3.0), (2.0, 1.0))]
    assert worst(sums, "MAE") == 2.5


@pytest.mark.parametrize(
    ("asked", "bound", "agree"),
    [
        (Signs(1), Signs(2), False), (Share(0.5), Share(0.9), False), (Beyond(0.1), Beyond(0.2), False),
        (Signs(), WrongBy(0.1), False), (WrongBy(0.1), Signs(), False), (Signs(2), Signs(2), True),
        (OutsideTopK(2), WrongBy(0.1), True),
    ],
)  # fmt: skip
def test_a_criterion_agrees_with_those_of_the_attacks(asked, bound, agree):
    y, attack = (TAGS(X) > 0).long(), partial(PGD, threat=fa.Linf(0.02), criterion=bound)
    y = y if isinstance(asked, Signs) else TAGS(X).argmax(1)
    calls = [
        lambda: fa.evaluate(TAGS, (X, y), {"one": attack, "two": attack}, criterion=asked),
        lambda: fa.evaluate(TAGS, (X, y), [attack, "fgsm"], threat=fa.Linf(0.1), criterion=asked),
        lambda: fa.accuracy_against_radius(TAGS, (X, y), lambda r: attack, [0.1], criterion=asked),
    ]
    says = r"criteria that agree on what is right .*; evaluate them one after"
    for call in calls:
        with nullcontext() if agree else pytest.raises(InputError, match=says):
            call()


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (labels(DENSE).float(), {}, "one integer for each position"),
        (labels(DENSE) + 3, {}, "classes 0 to 2, or ignore=-1, got [345]"),
        (labels(DENSE)[:, :4], {}, r"outputs \[10, K, 4, 8\]"),
        (labels(DENSE), {"draws": 3}, "draws: expected none"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(y: Tensor, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fa.evaluate(DENSE, (X, y), {"pgd": PGD}, threat=fa.Linf(0.05), criterion=Share(0.5), **options)


@pytest.mark.parametrize("criterion", [Signs(), Share(0.5, ignore=255), Beyond(0.1), Unless(1)])
def test_a_table_is_loaded_as_data(criterion: fa.attacks.Criterion, tmp_path: Path) -> None:
    model = DENSE if isinstance(criterion, Share) else TAGS
    y = (model(X) > 0).long() if isinstance(criterion, Signs) else model(X).argmax(1)
    y = torch.zeros_like(y) if isinstance(criterion, Unless) else y
    y = None if isinstance(criterion, Beyond) else y
    table = fa.evaluate(model, (X, y), {"pgd": PGD}, threat=fa.Linf(0.01), criterion=criterion)
    torch.save(table, tmp_path / "table.pt")
    loaded = torch.load(tmp_path / "table.pt", weights_only=True)
    assert loaded.criterion == criterion
    assert str(loaded) == str(table)


def test_a_clean_accuracy_by_another_criterion_is_another_run(tmp_path: Path) -> None:
    y = labels(DENSE)
    fa.evaluate(DENSE, (X, y), criterion=Share(0.5), run_dir=tmp_path)
    with pytest.raises(InputError):
        fa.evaluate(DENSE, (X, y), criterion=Share(0.6), run_dir=tmp_path, resume=True)


def test_outputs_that_are_not_finite_are_in_no_error_and_right_in_no_label() -> None:
    class Sick(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(torch.isin(x[:, 0, 0, :1], X[:4, 0, 0, 0]), torch.nan)

    z, sick = TAGS(X).detach(), Sick(*TAGS)
    table = fa.evaluate(sick, (X, z + 0.1), {"pgd": PGD}, threat=fa.Linf(0.0), criterion=Beyond(0.5))
    for extra in (table.extra, table["pgd"].extra):
        assert extra == {"MAE": pytest.approx(0.1), "RMSE": pytest.approx(0.1)}
    assert (table.failed.sum(), table.clean_accuracy) == (4, 0.6)
    tags = fa.evaluate(sick, (X, (z > 0).long()), criterion=Share(1.0))
    assert tags.extra == {"label accuracy": pytest.approx(0.6)}
