"""evaluate and accuracy_against_radius: figures against hand counts, with the denominators they name."""

import json
import math
import pickle
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import fastadv as fa
from fastadv.attacks import AttackResult, Status
from fastadv.attacks.core.card import REGISTRY
from fastadv.data import ImageSet
from fastadv.evaluation import Curve, accuracy_against_radius, clopper_pearson, evaluate
from fastadv.measure.bound import minimizes
from fastadv.runs import processes
from tests.engine.nets import convnet, images
from tests.evaluation.nets import DATA, Threshold, nearest, pgd, pixels
from tests.refusals import refuses


def test_a_model_of_one_batch_size_is_to_be_padded():
    def four(x):
        return Threshold()(x.view(4, 1)) if len(x) == 4 else x.view(4, 1)

    refuses("got .* at 2 of 4; let a module around it pad", evaluate, four, DATA, batch_size=4)


def test_figures_by_hand():
    table = evaluate(Threshold(), DATA, {"small": pgd(0.15), "large": pgd(0.35)}, batch_size=4)
    assert (table.n, table.clean_accuracy, table.worst_case) == pytest.approx((6, 4 / 6, 1 / 6))
    small, large = table.rows
    assert (small.robust_accuracy, small.success_rate) == pytest.approx((3 / 6, 1 / 4))
    assert (large.robust_accuracy, large.success_rate) == pytest.approx((1 / 6, 3 / 4))
    assert table["large"].broken.tolist() == [True, True, True, False, False, False]
    # pitfall 15: in the median over all, samples already wrong count 0 and samples that held count inf;
    # the mean is over the broken
    assert small.distance.tolist()[3:] == [math.inf, 0, 0]
    assert small.median_distance == math.inf
    assert 0.1 <= small.mean_distance <= 0.15 + 1e-6
    assert large.median_distance < 0.35 + 1e-6


MINIMUM = fa.attacks.Attack(nearest, kind="minimum")


def result(x, y, success, *, status=None, zero=None):
    status = torch.where(success, Status.BROKEN, Status.HELD) if status is None else status
    zero = torch.zeros_like(success) if zero is None else zero
    distance = torch.where(success, 0.25, torch.inf)
    return AttackResult(x, success, status, distance * 0, distance, len(x), 0, zero)


def test_worst_case_is_per_sample_not_the_worst_attack():
    attacks = {
        name: lambda model, x, y, *, ids, rest=rest: result(1 - x, y, ids % 2 == rest)
        for rest, name in enumerate(("even", "odd"))
    }
    table = evaluate(Threshold(), DATA, attacks, batch_size=4)
    assert [row.robust_accuracy for row in table.rows] == pytest.approx([2 / 6, 2 / 6])
    assert table.worst_case == 0
    assert table.held.tolist() == [False] * 6


def test_failed_and_unmoved_samples_are_counted_and_never_broken():
    """Neither a sample that is wrong already nor one that is broken is among them."""

    def failing(model, x, y, *, ids):
        failed = torch.full((len(x),), int(Status.FAILED))
        return result(x, y, torch.zeros(len(x), dtype=torch.bool), status=failed, zero=(ids == 0) | (ids > 3))

    def odd(model, x, y, *, ids):
        return result(1 - x, y, ids == 1, zero=ids < 3)

    table = evaluate(Threshold(), DATA, {"failing": failing, "odd": odd})
    assert [(row.failed, row.unmoved) for row in table.rows] == [(4, 1), (0, 2)]
    assert table.rows[0].robust_accuracy == table.clean_accuracy
    head, *lines = table.cells()
    assert head[-2:] == ["failed", "unmoved"]
    assert [line[-2:] for line in lines] == [["0", ""], ["4", "1"], ["0", "2"], ["", ""]]
    first, _ = table.to_dict()["attacks"]
    assert (first["failed"], first["unmoved"]) == (4, 1)
    assert "failing: failed: the attack met NaN or infinity on 4 of 6 samples" in str(table)
    assert "unmoved: failing met only zero gradients on 1" in str(table)


class Poisoned(Threshold):
    """NaN or infinity where a pixel is exactly 0.7 or 0.6: samples 1 (right otherwise) and 5 (wrong)."""

    def forward(self, x):
        first = x.flatten(1)[:, :1]
        logits = super().forward(x)
        return torch.where(first == 0.7, torch.nan, torch.where(first == 0.6, torch.inf, logits))


def test_a_sample_without_finite_logits_counts_as_neither_right_nor_broken_nor_robust():
    seen, batch_size = [], 4

    def attack(model, x, y, *, ids):
        seen.extend(ids.tolist())
        return pgd(0.35)(model, x, y, ids=ids)

    table = evaluate(Poisoned(), DATA, {"pgd": attack}, batch_size=batch_size)
    whole = evaluate(Threshold(), DATA, {"pgd": pgd(0.35)})
    assert table.failed.tolist() == [False, True, False, False, False, True]
    assert table.correct.tolist() == [True, False, True, True, False, False]
    assert (table.n, table.clean_accuracy) == (6, 3 / 6)
    row = table["pgd"]
    assert seen == [0, 2, 3, 4]
    assert row.broken.tolist() == [True, False, True, False, False, False]
    assert (row.robust_accuracy, row.success_rate) == pytest.approx((1 / 6, 2 / 3))
    assert torch.equal(row.distance[seen], whole["pgd"].distance[seen])
    assert row.distance[[1, 5]].isnan().all()
    # the median is over the four samples with a verdict: 0, two broken, inf
    assert row.median_distance == pytest.approx(float(row.distance[[0, 2]].mean()))
    assert table.to_dict()["failed"] == 2
    assert [line[-1] for line in table.cells()[:2]] == ["failed", "2"]
    curve = accuracy_against_radius(Poisoned(), DATA, pgd, [0, 0.15, 0.35], batch_size=batch_size)
    assert curve.accuracy == pytest.approx([3 / 6, 2 / 6, 1 / 6])


@pytest.mark.slow
def test_passes_of_a_frozen_model_are_those_of_the_attack():
    """Also where it compares its copy during one, as for the last batch, which is a single sample."""
    model = fa.models.create("small_cnn", shape=(3, 40, 40), classes=10).eval()
    x = torch.rand(5, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    bim = partial(fa.attacks.bim, threat=fa.Linf(1e-3), steps=3)
    frozen, passes = fa.freeze(model), set()
    for net, size in ((model, 4), (frozen, 4), (frozen, 4), (fa.freeze(model), 5), (fa.freeze(model), 1)):
        options = {"batch_size": size, "freeze": False if net is model else None, "indicators": False}
        table = evaluate(net, (x, model(x).argmax(1)), {"bim": bim}, **options)
        passes.add((table["bim"].forwards, table["bim"].backwards))
    assert frozen.compared[0] > 0
    assert len(passes) == 1


def test_limit():
    attacks, model = {"pgd": pgd(0.35), "weak": pgd(0.01)}, Threshold().train()
    table = evaluate(model, DATA, attacks, limit=5, batch_size=2)
    # the model is left as it was
    assert (model.training, model.weight.grad, model.weight.requires_grad) == (True, None, True)
    assert (table.n, table.ids.tolist()) == (5, [0, 1, 2, 3, 4])
    assert evaluate(Threshold(), DATA, limit=100).n == 6
    with pytest.raises(KeyError, match="pgd"):
        table["fgsm"]


def test_renderings():
    table = evaluate(Threshold(), DATA, {"small": pgd(0.15), "large": pgd(0.35)})
    head, _, first, small, _, worst, *_ = (
        line.split() for line in str(table).replace(" to ", "-").splitlines()
    )
    assert head == ["attack", "accuracy", "95%", "broken", "forwards", "backwards", "seconds"]
    assert (first, small[:4]) == (["none", "66.7%", "22-96"], ["small", "50.0%", "12-88", "25.0%"])
    assert worst == ["worst", "of", "all", "16.7%", "0-64"]
    small, large = json.loads(json.dumps(table.to_dict(), allow_nan=False))["attacks"]
    none, _, _, union = table.records()
    assert none["95%"] == [*clopper_pearson(4, 6)]
    assert union["95%"] == table.to_dict()["intervals"]["worst of all"] == [*clopper_pearson(1, 6)]
    assert small["accuracy_interval"] == table.records()[1]["95%"] == [*clopper_pearson(3, 6)]
    assert r"worst of all & 16.7\% & 0 to 64 \\" in table.to_latex(["accuracy", "95%"])
    assert {"label": "small", "attack": "pgd", "norm": "linf", "radius": 0.15}.items() <= small.items()
    assert small["median_distance"] is None
    assert (large["radius"], large["robust_accuracy"]) == (0.35, pytest.approx(1 / 6))
    assert 0 < table.probing < table.seconds
    told = "50.0 seconds in all, 30.0 for the probes of the verdict"
    for probing, says in ((30.0, True), (3.0, False)):
        assert (told in replace(table, seconds=50.0, probing=probing).notes()) == says
    clean = evaluate(Threshold(), DATA)
    assert clean.probing == 0
    assert (clean.clean_accuracy, clean.worst_case, clean.rows) == (4 / 6, 4 / 6, ())
    wrong = evaluate(Threshold(), pixels([0.1, 0.2], [1, 1]), {"pgd": pgd(0.1)})
    assert wrong.clean_accuracy == wrong.rows[0].median_distance == 0
    assert math.isnan(wrong.rows[0].success_rate)
    assert wrong.to_dict()["attacks"][0]["success_rate"] is None
    assert "-" in str(wrong).splitlines()[3]


def test_a_default_dtype_of_float64_changes_nothing():
    before = str(fa.evaluate(Threshold(), DATA, ["pgd"], threat=fa.Linf(0.1)).rows)
    torch.set_default_dtype(torch.float64)
    try:
        after = str(fa.evaluate(Threshold(), DATA, ["pgd"], threat=fa.Linf(0.1)).rows)
        assert fa.attacks.pdpgd(Threshold(), DATA.x, DATA.y, fa.L2(math.inf), steps=9).success.any()
    finally:
        torch.set_default_dtype(torch.float32)
    assert before.partition("seconds")[0] == after.partition("seconds")[0]


def test_bad_input_is_named():
    model = Threshold()
    empty = torch.utils.data.TensorDataset(torch.rand(0, 1, 1, 1), torch.zeros(0, dtype=torch.long))
    refuses("empty", evaluate, model, empty)
    for options in ({"batch_size": 0}, {"limit": 0}):
        refuses(">= 1", evaluate, model, DATA, **options)
    refuses(r"attacks\['pgd'\]", evaluate, model, DATA, {"pgd": 0.3})
    refuses("success", evaluate, model, DATA, {"odd": lambda model, x, y, ids: result(x, y[:3], ids[:3] < 3)})
    refuses("labels from 0 to 1", evaluate, model, ImageSet(DATA.x, DATA.y * 2, 3, "three"))
    model.weight.data[0] = math.nan
    for call in (lambda: evaluate(model, DATA), lambda: accuracy_against_radius(model, DATA, pgd, [0, 0.1])):
        refuses("finite logits", call)


def test_a_curve_spares_the_broken():
    seen = []

    def attack_for(radius):
        def attack(model, x, y, *, ids):
            seen.append((radius, ids.tolist()))
            return pgd(radius)(model, x, y, ids=ids)

        return attack

    # the larger two print alike
    radii, accuracy = accuracy_against_radius(
        Threshold(), DATA, attack_for, [0.1 + 0.2, 0, 0.15, 0.3], batch_size=4
    )
    assert radii.tolist() == [0, 0.15, 0.3, 0.1 + 0.2]
    assert accuracy == pytest.approx([4 / 6, 3 / 6, 2 / 6, 2 / 6])
    assert seen == [(0.15, [0, 1, 2, 3]), (0.3, [1, 2, 3]), (radii[3], [2, 3])]


FAR = np.array([0.2, math.inf, 0.0, 0.5, 0.2, math.nan, 0.7, math.inf])


@pytest.mark.parametrize("radii", [None, [0.6, 0, 0.1, 0.1], [0.0, 0.1, 0.2, 0.6, 9.0]])
def test_a_curve_is_the_share_of_samples_beyond_each_radius(radii):
    """A sample is broken at its distance and proved up to its certificate; NaN is as wrong as 0."""
    right, far = np.arange(8) != 3, np.where(np.isnan(FAR), 0.0, FAR)
    curve, proved = Curve.from_distances(FAR, radii), Curve.from_certificates(FAR, right, radii)
    assert curve.radii.tolist() == sorted({*([0, 0.2, 0.5, 0.7] if radii is None else radii)})
    for radius in (0, 1e-9, 0.2, 0.2000001, 0.5, 0.6, 99) if radii is None else radii:
        assert curve.at(radius) == (far > radius).mean()
        assert proved.at(radius) == ((far >= radius) & right).mean()
    low, high = proved.band(8)
    assert (low.accuracy[0], high.accuracy[0]) == clopper_pearson(7, 8)
    assert Curve.from_distances(torch.from_numpy(FAR), radii).accuracy.tolist() == curve.accuracy.tolist()


def test_curves_of_no_distances_are_refused():
    for radius in (0.1, math.nan):
        refuses("where the curve begins", Curve.from_distances(FAR, [0.2]).at, radius)
    for wrong in ([], [-0.1, 1], [[0.1]], 0.3, ["far"], None):
        refuses("distances: expected", Curve.from_distances, wrong)
    for wrong in ([1, 0, 1, 1, 1, 1, 1, 1], [True]):
        refuses("correct: expected True or False for each of 8 samples", Curve.from_certificates, FAR, wrong)


def test_a_registered_minimum_norm_attack_needs_no_keyword(monkeypatch):
    monkeypatch.setitem(REGISTRY, "nearest", MINIMUM)
    curve = partial(accuracy_against_radius, Threshold(), DATA, partial(nearest, past=0.02), [0.1, 0.2])
    refuses("threat: expected that in which points of your function are judged", curve)
    for limit, accuracy in ((None, [4 / 6, 3 / 6]), (2, [1, 1 / 2])):
        assert curve(threat=fa.Linf(math.inf), limit=limit).accuracy == pytest.approx(accuracy)
    for attack in (partial(partial(nearest), past=0.1), fa.attacks.latent_descent, fa.attacks.transfer):
        assert minimizes(attack)
    for attack in (pgd(0.1), lambda model, x, y, ids: nearest(model, x, y, ids=ids)):
        assert not minimizes(attack)


def fmn(threat):
    return partial(fa.attacks.fmn, threat=threat, steps=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"radii": [0.1]}, "neither"),
        ({"radii": [0.1], "attack_for_radius": pgd, "minimum_norm": nearest}, "both"),
        ({"minimum_norm": nearest, "radii": [-1]}, "radii"),
        ({"minimum_norm": partial(fa.attacks.pgd, threat=fa.Linf(0.1))}, "minimizes .* got pgd"),
        ({"minimum_norm": fmn(fa.Linf(0.1)), "radii": [0.1, 0.2]}, "at most 0.1, up to which .* got 0.2"),
        ({"minimum_norm": fmn(fa.Linf(torch.tensor([math.inf, *[0.1] * 5]))), "radii": [0.2]}, "most 0.1"),
        ({"minimum_norm": wraps(fmn(fa.Linf(0.1)))(lambda *values: None), "radii": [0.2]}, "most 0.1"),
        *(
            ({"attack_for_radius": pgd, "radii": radii}, "radii")
            for radii in ([], [-0.1, 0.2], [math.inf], [math.nan], ["a"], None)
        ),
    ],
)
def test_curves_that_cannot_be(arguments, says):
    refuses(says, accuracy_against_radius, Threshold(), DATA, **arguments)


@pytest.mark.slow
def test_a_minimum_norm_attack_has_a_median_with_its_interval(monkeypatch):
    monkeypatch.setitem(REGISTRY, "nearest", MINIMUM)
    table = evaluate(Threshold(), DATA, {"near": partial(nearest, spare=(2,)), "pgd": pgd(0.35)})
    near, budget = table.rows
    assert (near.minimum_norm, budget.minimum_norm) == (True, False)
    assert near.median_distance == pytest.approx((0.11 + 0.21) / 2)
    assert near.median_interval == (0, math.inf)
    right = int((near.correct & ~near.broken).sum())
    assert near.accuracy_interval == clopper_pearson(right, table.n)
    # none or all of 6: the other end solves p^6 = 0.025
    none = replace(near, broken=near.correct)
    assert none.accuracy_interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 6)))
    everything = replace(near, correct=~torch.zeros(6).bool(), broken=torch.zeros(6).bool())
    assert everything.accuracy_interval == pytest.approx((0.025 ** (1 / 6), 1.0))
    assert table.cells()[2][4] == "0.16 [0, inf]"
    of_near, of_pgd = table.to_dict()["attacks"]
    assert (of_near["minimum_norm"], of_near["median_interval"]) == (True, [0, None])
    assert of_pgd["median_interval"] is None


def test_samples_hold_the_nearest_adversarial_example():
    attacks = {
        "far": partial(nearest, past=0.05, sick=(2, 3)),
        "near": partial(nearest, spare=(1,), sick=(3,)),
        "nearer": partial(nearest, past=0.005, spare=(1, 2)),
    }
    table = evaluate(Threshold(), DATA, attacks, batch_size=4, keep_samples=True)
    kept = table.samples
    assert (kept.x.equal(DATA.x), kept.y.equal(DATA.y), kept.ids.tolist()) == (True, True, [*range(6)])
    assert kept.by.tolist() == [2, 0, 1, 2, -1, -1]
    assert kept.distance.tolist() == pytest.approx([0.105, 0.25, 0.31, 0.405, 0, 0])
    assert (kept.success.tolist(), kept.status.tolist()) == ([True] * 6, [1, 1, 1, 1, 0, 0])
    assert kept.x_adv.flatten().tolist() == pytest.approx([0.505, 0.45, 0.51, 0.495, 0.3, 0.6])
    assert torch.equal(kept.distances, torch.stack([row.distance for row in table.rows], 1))
    assert evaluate(Threshold(), DATA, attacks).samples is None
    # The first of attacks that come equally near counts
    kept = evaluate(Threshold(), DATA, {"one": nearest, "two": nearest}, keep_samples=True).samples
    assert kept.by.tolist() == [0, 0, 0, 0, -1, -1]


def test_samples_that_no_attack_broke():
    attacks = {"near": partial(nearest, spare=(0,), sick=(2, 3))}
    kept = evaluate(Poisoned(), DATA, attacks, keep_samples=True).samples
    failed = [Status.FAILED] * 3
    assert kept.status.tolist() == [Status.HELD, *failed, Status.ALREADY_WRONG, Status.FAILED]
    assert kept.distance.tolist() == [math.inf, math.inf, math.inf, math.inf, 0, math.inf]
    assert kept.success.tolist() == [False] * 4 + [True, False]
    assert torch.equal(kept.x_adv, DATA.x)
    # A sample that one attack broke is broken, wherever another failed
    attacks = {"near": nearest, "sick": partial(nearest, sick=(0, 1))}
    for order in (attacks, dict(reversed(attacks.items()))):
        kept = evaluate(Threshold(), DATA, order, keep_samples=True).samples
        assert kept.status[:2].tolist() == [Status.BROKEN] * 2
        assert kept.success[:2].all()
    kept = evaluate(Threshold(), DATA, keep_samples=True).samples
    assert (kept.by.tolist(), kept.distances.shape) == ([-1] * 6, (6, 0))


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


@pytest.mark.parametrize("order", [range(6), [3, 4, 5, 0, 1, 2], range(5)])
def test_no_batch_speaks_for_the_other(order):
    """Right are samples 0 to 3, of which 0 to 2 break at 0.11, 0.21 and 0.31."""
    data, spare = DATA.subset(order), [*order].index(3)
    asked = {"batch_size": 3, "indicators": False, "keep_samples": True}
    table = evaluate(Threshold(), data, {"uneven": uneven, "alike": partial(uneven, alike=True)}, **asked)
    row, alike = table.rows
    assert repr(alike.threat) == repr(fa.Linf(0.5))
    wanted = torch.tensor([0.11, 0.21, 0.31, math.inf, 0, 0], dtype=torch.float64)[[*order]]
    torch.testing.assert_close(row.distance, wanted, rtol=0, atol=1e-6)
    assert row.broken.tolist() == [place < 3 for place in order]
    assert (row.failed, row.unmoved, row.forwards, row.backwards) == (1, 1, 56, 43)
    assert (row.robust_accuracy, row.threat) == (1 / len(order), None)
    assert row.flags[:2] == ("both: said twice", "one: said once (in 1 of 2 batches)")
    assert row.flags[2].startswith(f"failed: the attack met NaN or infinity on 1 of {len(order)} samples")
    assert table.samples.status[spare] == Status.FAILED
    torch.testing.assert_close(table.samples.distances[:, 0], row.distance)


X, Y = images()


def test_an_evaluation_tells_other_processes_no_points(monkeypatch: Any) -> None:
    told = list[int]()
    weighed = lambda count, results: (told.append(len(pickle.dumps(one))) or one for one in results)  # noqa: E731
    monkeypatch.setattr(processes, "in_turn", weighed)
    data = TensorDataset(X.repeat(4, 1, 1, 1), Y.repeat(4))
    attacks = dict.fromkeys("ab", partial(fa.attacks.fgsm, threat=fa.Linf(0.05)))
    fa.evaluate(convnet().eval(), data, attacks, batch_size=4, indicators=False)
    assert len(told) == len(data) // 4
    assert max(told) < 100_000
