"""What a table says of attacks with a mask, targets or a criterion, and its verdict on any outputs."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import Beyond, ConfidentlyWrong, OutsideTopK, Share, Signs, Unless, WrongBy
from fastadv.attacks.core.criterion import Criterion
from fastadv.attacks.masking.flags import SIGNS
from fastadv.attacks.masking.signs import OF_CLASSES
from fastadv.evaluation import Table
from fastadv.evaluation.row import groups
from tests.attacks.masking.nets import StraightThrough, honest
from tests.defenses import Detach, Pointwise, Quantize

NET, L = honest("standard"), fa.Linf(0.08)
X = fa.data.load("digits", "test", limit=60).x
X = X[NET(X).argmax(1) != 9][:40]  # the class by which it may abstain
Y = NET(X).argmax(1)
PGD = partial(fa.attacks.pgd, threat=L, steps=40)
LEFT = torch.zeros(1, 1, 8, 8, dtype=torch.bool).index_fill_(3, torch.arange(4), True)

GOALS: dict[str, dict[str, Any]] = {
    "a mask": {"mask": LEFT},
    "a mask for each sample": {"mask": torch.rand(40, 1, 8, 8, generator=torch.manual_seed(1)) > 0.5},
    "targets": {"targets": (Y + 1) % 10},
    "both": {"targets": (Y + 1) % 10, "mask": LEFT},
    "outside": {"criterion": OutsideTopK(2)},
    "lead": {"criterion": WrongBy(1.0)},
    "sure": {"criterion": ConfidentlyWrong(0.6)},
    "reject": {"criterion": Unless(9)},
}


def evaluated(attacks: Any, model: Any = NET, x: Tensor = X, y: Any = Y, **options: Any) -> Table:
    return fa.evaluate(model, (x, y), attacks, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", GOALS)
def test_a_row_keeps_its_threat_and_all_checks_run(name: str) -> None:
    table = evaluated({"pgd": partial(PGD, **GOALS[name])})
    (row,), signs = table.rows, table.indicators
    assert repr(row.threat) == repr(L)
    assert f"40 samples, {row.within};" in str(table)
    assert row.within == "L∞ 0.08" + " on 50% of the values" * ("mask" in GOALS[name])
    assert table.verdict.startswith("No sign of masking")
    assert set(signs.values) == set(SIGNS) - {"square"}  # which was not searched for
    assert not groups(table.rows)[0].whole  # no robust accuracy of the ball


def test_one_radius_for_each_sample_evaluated_is_too_few_where_others_are_evaluated() -> None:
    """Of a sorted set samples are drawn by class, whose numbers lie beyond those that have a radius."""
    order = Y.argsort()
    few = partial(fa.attacks.fgsm, threat=fa.Linf(torch.full((12,), 0.1)))
    with pytest.raises(fa.InputError, match="one for each of the 40 samples"):
        evaluated({"few": few}, x=X[order], y=Y[order], limit=12)


def test_a_function_that_takes_no_criterion_is_judged_by_that_of_the_call() -> None:
    tags = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    y, still = (tags(X) > 0).long(), {"still": lambda model, x, y: x}
    table = evaluated(still, tags, y=y, criterion=Signs(), threat=L, indicators=False)
    assert table["still"].robust_accuracy == 1


def test_a_masked_gradient_is_seen_within_the_mask() -> None:
    class Right(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NET(torch.cat([x[..., :4].detach(), x[..., 4:]], -1))

    inside, outside = (evaluated({"pgd": partial(PGD, mask=mask)}, Right()) for mask in (LEFT, ~LEFT))
    assert inside.indicators.values["zero_gradient"] == 1
    assert outside.indicators.values["zero_gradient"] == 0


@pytest.mark.slow
def test_other_goals_do_not_count_for_each_other() -> None:
    """A target that is not reached holds no sample, and what a mask leaves says nothing of the ball."""
    wide = {"aimed": partial(PGD, threat=fa.Linf(0.3), targets=(Y + 1) % 10), "pgd": PGD}
    wide |= {"left": partial(PGD, mask=LEFT), "lead": partial(PGD, criterion=WrongBy(1e6))}
    table, alone = evaluated(wide), evaluated({"pgd": PGD})
    assert table.indicators.values == pytest.approx(alone.indicators.values)
    assert table.setting == "40 samples, L∞ 0.3, L∞ 0.08, L∞ 0.08 on 50% of the values"
    assert [group.whole for group in groups(table.rows)] == [True, False, False, False]
    assert groups(table.rows)[0].same(table.rows) == [table["pgd"]]


OTHERS = {
    "tags": (Signs(), 3),
    "all tags": (Signs(least="all"), 3),
    "map": (Share(0.2), 2),
    "number": (Beyond(0.3), 1),
    "embedding": (Beyond(0.3, by="cosine"), 8),
}


def other(name: str, *layers: nn.Module) -> tuple[nn.Module, Tensor | None, Criterion]:
    """Return a net behind layers, with labels that are right: what it says."""
    criterion, width = OTHERS[name]
    torch.manual_seed(0)
    flat = nn.Flatten(), nn.Linear(64, 32), nn.ELU(), nn.Linear(32, width)
    dense = nn.Conv2d(1, 4, 3, padding=1), nn.ELU(), nn.Conv2d(4, width, 1)
    model = nn.Sequential(*layers, *(dense if name == "map" else flat)).eval()
    model[-1].weight.data *= 20
    z = model(X).detach()
    y = {"map": z.argmax(1), "number": z, "embedding": None}.get(name, (z > 0).long())
    return model, y, criterion


class Together(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - 0.5 * x.mean(0, keepdim=True)


SEEN: dict[str, nn.Module] = {
    "zero_gradient": Quantize(4),
    "incorrect_gradient": Detach(),
    "randomized": Pointwise(lambda x: x + 1e-3 * torch.randn_like(x)),
    "mixed_rows": Together(),
    "a stand-in": StraightThrough(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_what_needs_no_classes_runs_for_other_outputs(name: str) -> None:
    model, y, criterion = other(name)
    table = evaluated({"pgd": PGD}, model, y=y, criterion=criterion)
    signs = table.indicators
    assert signs.flagged == ()
    assert (dict(signs.unseen), len(signs.values)) == (dict.fromkeys(OF_CLASSES, "they need classes"), 5)
    named = f"did not run: {', '.join(OF_CLASSES)} (they need classes)"
    assert table.verdict == f"Inconclusive, no flag so far ({signs.samples} samples probed); {named}"
    for sign, layer in SEEN.items():
        model, y, criterion = other(name, layer)
        # the numbers break as a whole in the wide ball, where nothing is hidden
        wide = (name, sign) != ("number", "a stand-in")
        attack = partial(PGD, threat=L if wide else fa.Linf(1e-3), steps=5)
        verdict = evaluated({"pgd": attack}, model, y=y, criterion=criterion).verdict
        assert sign in verdict
        assert verdict.startswith("Inconclusive: the gradient is" if sign == "a stand-in" else "Do not trust")


def test_what_an_attack_asks_for_inside_is_told() -> None:
    def inside(model: Any, x: Tensor, y: Tensor, **more: Any) -> Any:
        return fa.attacks.pgd(model, x, y, L, steps=3, criterion=WrongBy(1.0), **more)

    row = fa.evaluate(NET, (X, Y), {"own": inside}, freeze=False)["own"]
    assert any("a success is WrongBy(lead=1.0)" in remark for remark in row.remarks)
