"""Sources against targets: hand-computed shares, what is counted, and what is refused."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.evaluation import transfer_matrix

from .nets import DATA, pixels

ATTACK = partial(fa.attacks.fgsm, threat=fa.Linf(0.15))


class Threshold(nn.Module):
    """Class 1 where the first pixel is above `limit`; of `classes`, the others never."""

    def __init__(self, limit: float, classes: int = 2, broken: bool = False) -> None:
        super().__init__()
        self.limit, self.classes, self.broken = limit, classes, broken
        self.weight = nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        logits = (x.flatten(1)[:, :1] - self.limit) * self.weight
        logits = nn.functional.pad(logits, (0, self.classes - 2), value=-9.0)
        moved = (x * 100 - (x * 100).round()).flatten(1)[:, :1].abs() > 0.1
        return logits.masked_fill(moved & self.broken, torch.nan)


def test_shares_by_hand() -> None:
    # 0.40 0.70 0.20 0.90 0.30 0.60 with labels 0 1 0 1 1 0
    high, half = Threshold(0.65), Threshold(0.5)
    targets = {"high": high, "half": half}
    out = transfer_matrix({"half": half, "high": high}, targets, DATA, ATTACK, batch_size=4)
    # by `half`, moved by 0.15 where right: 0.55 0.55 0.35 0.75 0.30 0.60
    # by `high`, right but for 0.30: 0.55 0.55 0.35 0.75 0.30 0.75
    assert out.correct.tolist() == [5, 4]
    assert out.fooled.tolist() == [[1, 1], [2, 1]]
    assert out.shares.tolist() == [[0.2, 0.25], [0.4, 0.25]]
    assert str(out).splitlines() == [
        "source            high   half",
        "-----------------------------",
        "half             20.0%  25.0%",
        "high             40.0%  25.0%",
        "correct samples      5      4",
        "6 samples; each share is of those that the target of its column gets right",
    ]
    assert out.markdown().startswith("| source | high | half |\n| --- | ---: | ---: |\n| half | 20.0% |")
    told = json.loads(json.dumps(out.to_dict()))
    assert told == {
        "n": 6,
        "correct": {"high": 5, "half": 4},
        "shares": {"half": {"high": 0.2, "half": 0.25}, "high": {"high": 0.4, "half": 0.25}},
    }


def test_a_targeted_attack_limit_ids_and_one_run_for_each_source() -> None:
    calls: list[Any] = []

    def attack(model: Any, x: Tensor, y: Tensor, **options: Any) -> Any:
        calls.append(options)
        return ATTACK(model, x, y, **options)

    nets = {"half": Threshold(0.5, 3), "low": Threshold(0.35, 3)}
    out = transfer_matrix(nets, nets, DATA, attack, wanted=lambda y: 1 - y, limit=4, batch_size=3)
    # by `half` 0.55 0.55 0.35 0.75; by `low`, which gets 0.40 wrong, 0.40 0.55 0.35 0.75
    assert [call["ids"].tolist() for call in calls] == [[0, 1, 2], [0, 1, 2], [3], [3]]
    assert [call["targets"].tolist() for call in calls] == [[1, 0, 1], [1, 0, 1], [0], [0]]
    assert out.correct.tolist() == [4, 3]
    assert out.fooled.tolist() == [[1, 0], [0, 0]]
    third = transfer_matrix(nets, nets, DATA, ATTACK, wanted=lambda y: torch.full_like(y, 2))
    assert third.fooled.sum() == 0  # fooled, but not into that class


def test_what_counts_as_right() -> None:
    inverse = Threshold(0.5)
    with torch.no_grad():
        inverse.weight.neg_()
    out = transfer_matrix({"half": Threshold(0.5)}, {"none": inverse}, pixels([0.1, 0.9], [0, 1]), ATTACK)
    assert out.correct.tolist() == [0]
    assert out.to_dict()["shares"] == {"half": {"none": None}}
    assert "-" in str(out).splitlines()[2]
    # logits that are not finite at a point are no success
    odd = partial(fa.attacks.fgsm, threat=fa.Linf(0.155))
    broken = {"broken": Threshold(0.5, broken=True)}
    out = transfer_matrix({"half": Threshold(0.5)}, broken, DATA, odd)
    assert (out.correct.tolist(), out.fooled.tolist()) == ([4], [[0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": {}}, "sources: expected models by their names"),
        ({"targets": Threshold(0.5)}, "targets: expected models by their names"),
        ({"targets": {"three": Threshold(0.5, 3)}}, "the same classes, got half 2, three 3"),
        ({"attack": "fgsm"}, "attack: expected a function"),
        ({"attack": lambda model, x, y, ids: None}, "expected an AttackResult"),
        ({"dataset": ImageSet(DATA.x, DATA.y + 1, ("a", "b", "c"), "more")}, "labels from 0 to 1"),
        ({"wanted": lambda y: 1.0 * y}, "wanted: expected a function"),
        ({"wanted": lambda y: y}, "targets: expected a class other than the label"),
        ({"batch_size": 0}, "batch_size"),
        ({"limit": 0}, "limit"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    half = {"half": Threshold(0.5)}
    given = {"sources": half, "targets": half, "dataset": DATA, "attack": ATTACK} | change
    with pytest.raises(InputError, match=message):
        transfer_matrix(**given)


def test_same_name_for_two_models_with_other_classes() -> None:
    with pytest.raises(InputError, match="the same classes, got net 2, net 3"):
        transfer_matrix({"net": Threshold(0.5)}, {"net": Threshold(0.5, 3)}, DATA, ATTACK)


def test_models_are_left_as_they_are() -> None:
    net = Threshold(0.5).train()
    data = ImageSet(DATA.x, DATA.y, DATA.classes, "again")
    transfer_matrix({"net": net}, {"net": net}, data, ATTACK)
    assert net.training
    assert net.weight.grad is None


@pytest.mark.slow
def test_the_page_on_transfer() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "transfer.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/transfer.md", "exec"), names)
    plain, tuned = (matrix.shares for matrix in names["matrices"])
    assert tuned[0, 1] > plain[0, 1]
    assert tuned[1, 0] >= plain[1, 0] - 0.02
    assert all(getattr(fa.attacks, name) for name in re.findall(r"^\| `([A-Z]\w+)\(", page, re.MULTILINE))
