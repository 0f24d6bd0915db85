"""Each row is what it is alone, in any batches, draws and folders, after each kind of attack."""

from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import AttackResult
from fastadv.evaluation import Table, evaluate
from tests.evaluation.nets import assert_same
from tests.evaluation.test_report import written

COUNT = 12


class ByIds(nn.Module):
    """A linear net of its own for each id, of which the first value tells."""

    def __init__(self, sick: int = -1) -> None:
        super().__init__()
        weight = torch.randn(COUNT, 6, 3, generator=torch.Generator().manual_seed(0))
        self.weight, self.sick = nn.Parameter(weight), sick

    def forward(self, x: Tensor) -> Tensor:
        marks, values = x.flatten(1).split([1, 6], 1)
        ids = (marks.detach()[:, 0] * COUNT).long().clamp(0, COUNT - 1)
        logits = torch.einsum("bd, bdk -> bk", values - 0.5, self.weight[ids])
        return logits.masked_fill((ids == self.sick)[:, None], torch.nan)


X = torch.rand(COUNT, 1, 1, 7, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.05
X[:, 0, 0, 0] = (torch.arange(COUNT) + 0.5) / COUNT
Y = ByIds()(X).argmax(1)
Y[4] = (Y[4] + 1) % 3


def points_alone(model: Any, x: Tensor, y: Tensor) -> AttackResult:
    right = model(x).argmax(1) == y
    moved = torch.cat([x[..., :1], 1 - x[..., 1:4], x[..., 4:]], 3)
    broken, none = (model(moved).argmax(1) != y) | ~right, torch.zeros_like(right)
    x_adv = moved.where((broken & right)[:, None, None, None], x)
    status, distance = torch.where(broken, 1, 2).where(right, 0), torch.where(broken, 0.1, inf)
    return AttackResult(x_adv, broken, status, distance, distance, 0, 0, none)


ATTACKS = {
    name: partial(getattr(fa.attacks, name), threat=threat, **options)
    for name, threat, options in (
        ("fgsm", fa.Linf(0.03), {}), ("square", fa.Linf(0.03), {"queries": 20}), ("deepfool", fa.L2(0.3), {}),
        ("fab", fa.Linf(0.08), {"steps": 5}), ("fmn", fa.Linf(0.08), {"steps": 9}),
        ("ddn", fa.L2(inf), {"steps": 9}), ("minimum_norm", fa.L2(0.2), {"steps": 30}),
        ("sigma_zero", fa.L0(3), {"steps": 9}), ("bim", fa.Scaled(torch.full((1, 1, 7), 0.03)), {"steps": 3}),
        ("autoattack", fa.Linf(0.03), {"version": ["apgd-ce"]}),
    )
} | {"own": points_alone, "again": points_alone}  # fmt: skip


def measured(draws: int = 3, sick: int = -1, **options: Any) -> Table:
    settings = {"batch_size": 5, "draws": draws, "indicators": False, "keep_samples": True}
    return evaluate(ByIds(sick), (X, Y), ATTACKS, **settings | options)


def verdicts(table: Table) -> list[list[bool]]:
    """What is right after each attack; each draw says the same."""
    held = [row.correct & ~row.broken for row in table.rows]
    for row, right in zip((table, *table.rows), (table.correct, *held), strict=True):
        assert row.draws is None or (row.draws.right.equal(3 * right) and row.draws.voted.equal(right)), row
    return [each.tolist() for each in held]


@pytest.mark.slow
def test_one_draw_is_the_verdict_in_any_batches(tmp_path: Path) -> None:
    whole = measured(sick=(sick := 7), batch_size=COUNT)
    right = verdicts(whole)
    assert len({*map(tuple, right)}) > 4
    assert right == verdicts(measured(1, sick, batch_size=2))
    measured(sick=sick, run_dir=tmp_path)
    for place in (3, 10):
        (tmp_path / f"part-00001-{place:02}.safetensors").unlink()
    assert_same(again := measured(sick=sick, run_dir=tmp_path, resume=True), measured(sick=sick))
    assert verdicts(again) == right
    written(tmp_path, whole, model=ByIds(sick))
