"""Two batches that disagree: what an evaluation makes of them, whichever comes first."""

import math
from dataclasses import replace

import pytest
import torch

import fastadv as fa
from fastadv.attacks import AttackResult, Status
from fastadv.data import ImageSet
from fastadv.evaluation import Row, Table, evaluate
from tests.evaluation.nets import DATA, Threshold, nearest

SWAPPED = [3, 4, 5, 0, 1, 2]


def uneven(model, x, y, *, ids, alike: bool = False) -> AttackResult:
    """The nearest points of samples 0 to 2; of the others 3 holds, with a word, other costs and a threat."""
    bright = x.flatten(1)[:, 0] == 0.9  # sample 3, wherever it stands
    out = nearest(model, x, y, ids=ids, spare=ids[bright].tolist())
    out = replace(out, flags=("both: said twice",) * 2, threat=fa.Linf(0.5))
    if not bright.any():
        return replace(out, flags=(*out.flags, "one: said once"), unfinished=torch.zeros(len(x)))
    status = torch.where(bright, int(Status.FAILED), out.status)
    return replace(
        out, status=status, zero_gradient=bright, forwards=50, backwards=40,
        threat=fa.Linf(0.5 if alike else 0.25),
    )  # fmt: skip


def measured(data: ImageSet, **options) -> tuple[Table, Row]:
    table = evaluate(Threshold(), data, {"uneven": uneven}, batch_size=3, indicators=False, **options)
    return table, table.rows[0]


@pytest.mark.parametrize("order", [range(6), SWAPPED, range(5)])
def test_no_batch_speaks_for_the_other(order):
    """Right are samples 0 to 3, of which 0 to 2 break at 0.11, 0.21 and 0.31."""
    data = DATA.subset(order)
    spare = [*order].index(3)
    table, row = measured(data, keep_samples=True)
    wanted = torch.tensor([0.11, 0.21, 0.31, math.inf, 0, 0], dtype=torch.float64)[[*order]]
    torch.testing.assert_close(row.distance, wanted, rtol=0, atol=1e-6)
    assert row.broken.tolist() == [place < 3 for place in order]
    assert (row.failed, row.unmoved, row.forwards, row.backwards) == (1, 1, 56, 43)
    assert (row.robust_accuracy, row.threat) == (1 / len(order), None)
    assert row.flags[:2] == ("both: said twice", "one: said once (in 1 of 2 batches)")
    assert row.flags[2].startswith(f"failed: the attack met NaN or infinity on 1 of {len(order)} samples")
    assert table.samples.status[spare] == Status.FAILED
    torch.testing.assert_close(table.samples.distances[:, 0], row.distance)


def test_a_threat_that_all_batches_have_is_that_of_the_row():
    table = evaluate(
        Threshold(), DATA, {"one": lambda *given, ids: uneven(*given, ids=ids, alike=True)}, batch_size=3
    )
    assert repr(table["one"].threat) == repr(fa.Linf(0.5))
