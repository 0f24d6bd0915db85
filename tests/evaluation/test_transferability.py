"""The matrix of sources and targets, by hand on models of one pixel."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.intervals import clopper_pearson
from tests.attacks.nets import linear, mlp


class Above(nn.Module):
    """Class 1 where the first value is above a bound; of no finite logit above `broken`."""

    def __init__(self, bound: float, broken: float = 9.0) -> None:
        super().__init__()
        self.bound, self.broken = bound, broken

    def forward(self, x: Tensor) -> Tensor:
        far = x.flatten(1)[:, 0] - self.bound
        logits = torch.stack([-far, far], 1)
        broken = (x.flatten(1) > self.broken).any(1, keepdim=True) & torch.tensor([False, True])
        return logits.masked_fill(broken, torch.nan)


X = torch.linspace(0.05, 0.95, 10).view(10, 1, 1, 1)
Y = (X.flatten() > 0.5).long()
NETS = {"half": Above(0.5), "low": Above(0.28)}
TARGETS = {**NETS, "nan": Above(0.5, 0.7), "wrong": Above(-1.0)}


def pushed(model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> Tensor:
    """An attack of one's own, which moves every sample by 0.3 across."""
    assert torch.equal(x, X[ids])
    return x + 0.3 * (1 - 2 * y.view(-1, 1, 1, 1))


def test_success_is_among_what_each_target_has_right() -> None:
    table = fa.transferability({"half": NETS["half"]}, TARGETS, (X, Y), pushed, batch_size=4)
    # right before: of "low" not 0.35 and 0.45, of "nan" none above 0.7, of "wrong" class 1 alone
    assert table.right.tolist() == [10, 8, 7, 5]
    # three cross 0.5 each way; of "low" 0.05, 0.15 and 0.25 rise above 0.28, and 0.55 falls below it; of
    # "nan" 0.45 becomes 0.75, of which it says nothing
    assert table.fooled.tolist() == [[6, 4, 4, 0]]
    assert table.success.tolist() == [[0.6, 4 / 8, 4 / 7, 0.0]]
    for column, (fooled, right) in enumerate(((6, 10), (4, 8), (4, 7), (0, 5))):
        ends = clopper_pearson(fooled, right)
        assert (table.interval.low[0, column], table.interval.high[0, column]) == ends
    text = str(table)
    assert "60.0% [26.2%, 87.8%]" in text
    assert "8 of 10" in text
    assert "pushed" in text
    assert "not rounded to 8 bits" in text


def test_points_outside_of_the_threat_are_refused() -> None:
    attack = partial(lambda model, x, y, *, ids, threat: pushed(model, x, y, ids=ids), threat=fa.Linf(0.2))
    with pytest.raises(fa.errors.InputError, match=r"expected points in L∞ 0.2, got 4 of 4 outside"):
        fa.transferability(NETS, TARGETS, (X, Y), attack, batch_size=4)
    shape = fa.Scaled(torch.full(X.shape[1:], 0.2))  # of a map images alone do not say where they lie
    fa.transferability(NETS, TARGETS, (X, Y), partial(attack, threat=shape), batch_size=4)


def test_it_is_what_an_attack_and_a_pass_give() -> None:
    digits = fa.data.load("digits", "test", limit=60)
    nets = {name: fa.models.create(name, shape=digits.shape) for name in ("softmax", "small_cnn")}
    attack = partial(fa.attacks.mim, threat=fa.Linf(0.2), stop_early=False, steps=3)
    table, again = (fa.transferability(nets, nets, digits, attack, batch_size=size) for size in (60, 17))
    for row, source in enumerate(nets.values()):
        x_adv = attack(source, digits.x, digits.y, ids=torch.arange(60)).x_adv
        for column, target in enumerate(nets.values()):
            right = target.eval()(digits.x).argmax(1) == digits.y
            assert table.right[column] == right.sum()
            assert table.fooled[row, column] == (right & (target(x_adv).argmax(1) != digits.y)).sum()
    assert torch.equal(table.fooled, again.fooled)
    assert table.fooled.sum() > 0
    assert table.misread.tolist() == [60 - count for count in table.right.tolist()]
    assert f"softmax misreads {int(table.misread[0])} of 60 samples" in str(table)
    assert fa.transferability(nets, nets, digits, attack, limit=20).samples == 20


def test_a_source_without_finite_logits_makes_nothing_of_these_samples() -> None:
    nets = {"half": NETS["half"], "nan": TARGETS["nan"], "none": Above(0.5, -1.0)}
    table = fa.transferability(nets, NETS, (X, Y), pushed, batch_size=4)
    assert table.failed.tolist() == [0, 3, 10]  # a batch has two of them, another one, and one has none
    # of those above 0.7 that stay, 0.75 would have fallen below 0.5
    assert table.fooled.tolist() == [[6, 4], [5, 4], [0, 0]]
    assert "nan has no finite logits on 3 of 10 samples" in str(table)
    assert "half has no" not in str(table)
    assert table.to_dict()["misread"] == table.misread.tolist() == [0, 0, 0]
    assert table.to_dict()["failed"] == [0, 3, 10]


def test_an_attack_of_ones_own_may_write_into_x_and_take_no_ids() -> None:
    def written(model: Any, x: Tensor, y: Tensor) -> Tensor:
        right = model(x).argmax(1) == y
        return x.sub_(torch.where(right, 0.6 * y - 0.3, 0.0).view(-1, 1, 1, 1))

    table = fa.transferability({"one": NETS["half"], "two": NETS["half"]}, NETS, (X, Y), written)
    assert table.fooled.tolist() == [[6, 4], [6, 4]]
    assert table.right.tolist() == [10, 8]
    assert torch.equal(X, torch.linspace(0.05, 0.95, 10).view(10, 1, 1, 1))


def test_a_share_of_nothing_is_none() -> None:
    table = fa.transferability(NETS, {"wrong": Above(-1.0)}, (X[:3], Y[:3]), pushed)
    assert table.success.isnan().all()
    assert (table.interval.low.tolist(), table.interval.high.tolist()) == ([[0], [0]], [[1], [1]])
    kept = json.loads(json.dumps(table.to_dict()))
    assert kept["success"] == [[None], [None]]
    assert kept["sources"] == ["half", "low"]
    assert "0 of 3" in str(table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([NETS["half"]], NETS, (X, Y), pushed), "sources: expected models by name"),
        ((NETS, {}, (X, Y), pushed), "targets: expected models by name"),
        ((NETS, NETS, (X, Y), "mim"), "threat: expected one for mim"),
        ((NETS, NETS, (X, Y), 3), "attack: expected an attack"),
        ((NETS, NETS, (X + 1, Y), pushed), "expected"),
        (
            (NETS, NETS, (X, Y), lambda model, x, y: x[:1]),
            r"attack: expected .* got torch.float32 \[1, 1, 1, 1\]",
        ),
        ((NETS, NETS, (X, Y), lambda model, x, y: (255 * x).byte()), r"attack: .* got torch.uint8"),
        ((NETS, NETS, (X, Y), lambda model, x, y: None), "attack: .* got NoneType"),
        (({"c": mlp()}, NETS, (X, Y), pushed), r"sources: expected nets that take x \[B, 1, 1, 1\]"),
        ((NETS, {"c": mlp()}, (X, Y), pushed), r"targets: expected nets that take x \[B, 1, 1, 1\]"),
    ],
)
def test_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(fa.InputError, match=message):
        fa.transferability(*arguments)


IMAGES, MASK = torch.rand(2, 40, 1, 2, 3, generator=torch.Generator().manual_seed(0))
NET = linear(inputs=6)
LABELS = NET(IMAGES).argmax(1)
BOUND: dict[str, Any] = {
    "radii": {"threat": fa.Linf(torch.linspace(0.0, 0.2, 40))}, "box": {"threat": fa.Linf(0.1, (-1.0, 2.0))},
    "mask": {"mask": MASK < 0.7}, "targets": {"targets": (LABELS + 1) % 3},
}  # fmt: skip


@pytest.mark.parametrize("kind", BOUND)
def test_what_is_bound_for_each_sample_is_so_everywhere(kind: str) -> None:
    """A matrix and a curve take what an evaluation takes, and say the same."""
    attack = partial(fa.attacks.pgd, **{"threat": fa.Linf(0.2), **BOUND[kind]}, steps=3)
    data, options = (IMAGES, LABELS), {"batch_size": 9, "limit": 31}
    robust = fa.evaluate(NET, data, {"pgd": attack}, **options)["pgd"].robust_accuracy
    curve = fa.accuracy_against_radius(NET, data, lambda radius: attack, [0, 0.1], **options)
    assert curve.accuracy.tolist() == pytest.approx([1, robust])
    assert 0 < robust < 1
    fooled = float(fa.transferability({"net": NET}, {"net": NET}, data, attack, **options).success)
    # any wrong class fools, also where another was the target
    assert fooled == pytest.approx(1 - robust) or (kind == "targets" and fooled > 1 - robust)
    short = partial(fa.attacks.pgd, threat=fa.Linf(torch.full((7,), 0.1)))
    with pytest.raises(fa.InputError, match="one for each of the 40 samples of the data set, got 7"):
        fa.transferability({"net": NET}, {"net": NET}, data, short, **options)


def test_memory_that_ran_out_is_told_as_that() -> None:
    def full(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    data = torch.rand(1, 1, 8, 8), torch.arange(1)
    with pytest.raises(torch.OutOfMemoryError):
        fa.transferability({"a": full}, {"b": full}, data, partial(fa.attacks.fgsm, threat=fa.Linf(0.1)))
