"""An attack that consists of others: which component broke each sample, costs, flags, remarks."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.attacks import AutoAttackResult
from fastadv.attacks.masking.flags import Cost
from tests.evaluation import nets


def staged(model, x, y, *, ids) -> AutoAttackResult:
    """The nearest points: of samples with an even number by "first", of the others by "second".

    Sample 2 holds. A component runs where there is such a number; the second raises a flag, twice.
    """
    out = nets.nearest(model, x, y, ids=ids, spare=(2,))
    odd = ids % 2 == 1
    names = [
        "" if status != fa.attacks.Status.BROKEN else "second" if late else "first"
        for status, late in zip(out.status.tolist(), odd.tolist(), strict=True)
    ]
    costs = {}
    if odd.any():
        costs["second"] = Cost(int(odd.sum()), names.count("second"), 7, 0, 0.25)
    if not odd.all():
        costs["first"] = Cost(len(x), names.count("first"), 5, 3, 0.5)
    flags = ("doubtful: it has a reason",) * 2 if odd.any() else ()
    return AutoAttackResult(
        **vars(replace(out, flags=flags)), by=tuple(names), costs=costs, notes=("it stopped early",)
    )


def measured(**options: object) -> fa.evaluation.Table:
    return fa.evaluate(nets.Threshold(), nets.DATA, options.pop("attacks", {"staged": staged}), **options)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6])
def test_components_are_those_of_all_batches(batch_size: int) -> None:
    row = measured(batch_size=batch_size).rows[0]
    # the model has samples 4 and 5 wrong, and 2 holds
    assert row.broken.tolist() == [True, True, False, True, False, False]
    assert row.components is not None
    names = [*row.components.costs]  # as they came; the last stands for none
    assert [[*names, ""][place] for place in row.components.by] == ["first", "second", "", "second", "", ""]
    calls = 3 if batch_size == 1 else -(-6 // batch_size)
    samples = 3 if batch_size == 1 else 6
    assert row.components.costs["first"] == Cost(samples, 1, 5 * calls, 3 * calls, 0.5 * calls)
    assert row.components.costs["second"] == Cost(3, 2, 7 * calls, 0, 0.25 * calls)
    assert row.remarks == ("it stopped early",)
    assert row.flags == (f"doubtful: it has a reason{' (in 3 of 6 batches)' if batch_size == 1 else ''}",)


def test_the_table_tells_them() -> None:
    table = measured(batch_size=2, attacks={"staged": staged, "near": nets.nearest})
    parts, near = json.loads(json.dumps(table.to_dict()))["attacks"]
    assert near["components"] is None
    assert (parts["flags"], parts["remarks"]) == (["doubtful: it has a reason"], ["it stopped early"])
    assert list(parts["components"]) == ["second", "first"]
    costs = {"samples": 3, "broken": 2, "forwards": 21, "backwards": 0, "seconds": 0.75}
    assert parts["components"]["second"] == costs
    for text in ("doubtful: it has a reason", "it stopped early"):
        assert f"staged: {text}" in str(table)
    lines = [line.split() for line in str(table).splitlines()]
    assert ["component", "samples", "broken", "forwards", "backwards", "seconds"] in lines
    assert ["second", "3", "2", "21", "0", "0.8"] in lines


@pytest.mark.slow
def test_samples_name_the_component_of_the_nearest_attack() -> None:
    """`far` comes first and further away; it alone breaks sample 2."""
    attacks = {"far": partial(nets.nearest, past=0.05), "staged": staged}
    kept = measured(batch_size=4, attacks=attacks, keep_samples=True).samples
    assert kept is not None
    assert kept.by.tolist() == [1, 1, 0, 1, -1, -1]
    assert kept.component.tolist() == [1, 0, -1, 0, -1, -1]


def test_a_component_breaks_no_sample_that_was_wrong() -> None:
    model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
    x = fa.data.load("digits", "test").x[:20]
    y = model(x).topk(2).indices.gather(1, (torch.arange(20) % 2)[:, None])[:, 0]
    asked = {"threat": fa.Linf(0.3), "version": ["square"], "criterion": fa.attacks.OutsideTopK(2)}
    direct = fa.attacks.autoattack(model, x, y, **asked)
    row = fa.evaluate(model, (x, y), {"a": partial(fa.attacks.autoattack, **asked)}).rows[0]
    assert "square" in direct.by[1::2]
    assert (row.components.by[1::2] == -1).all()
    assert row.components.by_any_of(["square"]).equal(row.broken)
    assert row.broken[::2].any()
