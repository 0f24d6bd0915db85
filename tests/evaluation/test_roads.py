"""Every road to a robust accuracy says the same of the same samples."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.attacks import AttackResult, Status
from fastadv.data import ImageSet
from fastadv.evaluation import evaluate
from tests.evaluation.nets import DATA, Threshold, nearest
from tests.refusals import refuses

NAN, BAND = 0.97, (0.35, 0.45)  # pixels whose logits are NaN, and those at which an attack meets it


class Sick(Threshold):
    """Without logits above NAN; pixels move towards 1/2, and some meet a band without logits on the way."""

    def forward(self, x):
        first = x.flatten(1)[:, :1]
        sick = (first > NAN) | ((first > BAND[0]) & (first < BAND[1]))
        return super().forward(x).masked_fill(sick, math.nan)


# Samples: no logits, wrong, breaks at 0.1, holds at 0.1, meets the band and holds, no logits and class 0
PIXELS = torch.tensor([0.99, 0.8, 0.58, 0.85, 0.3, 0.98])
LABELS = torch.tensor([1, 0, 1, 1, 0, 0])
SICK = ImageSet(PIXELS.view(-1, 1, 1, 1), LABELS, ("dark", "light"), "sick")
ATTACK = partial(fa.attacks.pgd, threat=fa.Linf(0.1), steps=2, step_size=0.1, stop_early=False)


def test_an_attack_of_that_name_is_the_same_on_every_road():
    curve = partial(fa.accuracy_against_radius, Threshold(), DATA)
    pgd, radii = lambda r: partial(fa.attacks.pgd, threat=fa.L2(r), steps=3), [0, 0.15, 0.25]
    by_hand = curve(pgd, radii).accuracy.tolist()
    assert by_hand == curve("pgd:steps=3,norm=l2", radii).accuracy.tolist()
    assert by_hand == curve("pgd:steps=3", radii, threat=fa.L2(1)).accuracy.tolist()
    fmn = partial(fa.attacks.fmn, steps=9, threat=fa.Linf(math.inf))
    for one in (curve(minimum_norm="fmn:steps=9"), curve("fmn:steps=9", threat=fa.Linf(math.inf))):
        assert one.accuracy.tolist() == curve(minimum_norm=fmn).accuracy.tolist()
    nets = {"net": Threshold()}
    mim = partial(fa.attacks.mim, threat=fa.Linf(0.15), stop_early=False)
    fooled = fa.transferability(nets, nets, DATA, mim).fooled.tolist()
    assert fooled == fa.transferability(nets, nets, DATA, "mim:radius=0.15,stop_early=false").fooled.tolist()
    named = fa.transferability(nets, nets, DATA, "mim:stop_early=false", threat=fa.Linf(0.15))
    assert (named.fooled.tolist(), named.attack) == (fooled, "mim")
    audit = fa.evaluation.Audit("autoattack:version=quick", samples=3)
    table = evaluate(Threshold(), DATA, "fgsm", threat=fa.Linf(0.05), audit=audit, indicators=False)
    assert table.audit.attack == "AutoAttack quick"
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))
    (report,) = fa.train.fit(
        net, DATA, "standard", epochs=1, test_set=DATA, test_attacks="autoattack:version=quick",
        threat=fa.Linf(0.05),
    )  # fmt: skip
    assert [*report.robust_accuracy] == ["autoattack:version=quick"]


def test_a_result_tells_what_to_publish():
    out = ATTACK(Sick(), SICK.x, SICK.y)
    assert out.status.tolist() == [Status.FAILED, Status.ALREADY_WRONG, Status.BROKEN, Status.HELD,
                                   Status.FAILED, Status.FAILED]  # fmt: skip
    assert out.correct.tolist() == [False, False, True, True, True, False]
    assert str(out).splitlines() == [
        "pgd, Linf 0.1: clean 50.0%, robust 33.3% (95%: 4 to 78)",
        "failed: the model's logits are not finite for 2 of 6 samples; they count as not correct and are not "
        "attacked",
        "failed: the attack met NaN or infinity on 1 of 6 samples that it did not break; the accuracy may "
        "be too high",
    ]
    assert out.accuracy_interval == fa.evaluation.clopper_pearson(2, 6)
    assert repr(out).startswith("AttackResult(6 samples: 1 already wrong, 1 broken, 1 held, 3 failed;")
    aimed = fa.attacks.pgd(Threshold(), DATA.x, DATA.y, fa.Linf(0.15), targets=1 - DATA.y)
    assert str(aimed) == "pgd: clean 66.7%, 1 of 4 samples led to what was asked for"
    assert str(ATTACK(Threshold(), DATA.x[:0], DATA.y[:0])) == "pgd: no samples"
    assert all(math.isnan(end) for end in ATTACK(Threshold(), DATA.x[:0], DATA.y[:0]).accuracy_interval)
    free = fa.attacks.fmn(Threshold(), DATA.x, DATA.y, fa.Linf(math.inf), steps=20)
    assert str(free).startswith("fmn, Linf, any radius: clean 66.7%, broken 4 of 4, median distance 0.1")
    kept = fa.attacks.fmn(Threshold(), DATA.x, DATA.y, fa.Linf(0.15), steps=20, loss="margin")
    assert kept.success.tolist() == [True, False, False, False, True, True]
    margins = torch.tensor([-0.4, -0.6, -0.8])  # of x itself, to which x_adv falls back
    torch.testing.assert_close(kept.loss[1:4], margins)


def test_the_median_of_a_result_is_over_all_samples_with_logits():
    status = torch.tensor([Status.FAILED, Status.FAILED, Status.BROKEN, Status.BROKEN, Status.ALREADY_WRONG])
    distance, nothing = torch.tensor([math.inf, math.inf, 0.1, 0.2, 0.0]), torch.zeros(5)
    out = AttackResult(
        nothing, nothing > 0, status, nothing, distance, 0, 0, nothing > 0, threat=fa.L2(math.inf),
        correct=torch.tensor([False, True, True, True, False]),
    )  # fmt: skip
    assert str(out) == "attack, L2, any radius: clean 60.0%, broken 2 of 3, median distance 0.15"


def test_attacks_without_a_radius_count_within_that_of_the_others():
    """DATA breaks at 0.1, 0.2, 0.3 and 0.4; two are wrong."""

    def free(model, x, y, *, ids):  # breaks all, three within 0.35
        return replace(nearest(model, x, y, ids=ids), threat=fa.Linf(math.inf))

    def weak(model, x, y, *, ids):  # has a radius of 0.25, and breaks nothing
        return replace(nearest(model, x, y, ids=ids, spare=range(6)), threat=fa.Linf(0.25))

    both = evaluate(Threshold(), DATA, {"weak": weak, "free": free}, indicators=False)
    assert both["weak"].robust_accuracy == pytest.approx(4 / 6)
    assert (both.worst_case, both.held.sum()) == (pytest.approx(2 / 6), 2), "free broke two within 0.25"

    def wider(model, x, y, *, ids):  # its distances are not comparable
        return replace(free(model, x, y, ids=ids), threat=fa.Linf(math.inf, (0.0, 2.0)))

    foreign = evaluate(Threshold(), DATA, {"weak": weak, "wider": wider}, indicators=False)
    assert foreign.worst_case == pytest.approx(4 / 6)
    head, _, first, second, worst = both.cells()
    assert head[:6] == ["attack", "accuracy", "95%", "broken", "median", "mean"]
    assert (first[1:6], second[1:4]) == (["66.7%", "22 to 96", "0.0%", "-", "-"], ["-", "-", "100.0%"])
    assert worst[:2] == ["worst of all", "33.3%"]
    bounded, unbounded = both.to_dict()["attacks"]
    assert (unbounded["robust_accuracy"], unbounded["radius"], bounded["median_distance"]) == (None,) * 3
    alone = evaluate(Threshold(), DATA, {"free": free, "again": free}, indicators=False)
    assert (math.isnan(alone.worst_case), alone.to_dict()["worst_case"]) == (True, None)
    assert not any(line[0] == "worst of all" for line in alone.cells())


def test_a_ball_that_covers_the_box_is_flagged(logged):
    pgd = partial(fa.attacks.pgd, Threshold(), DATA.x, DATA.y)
    whole = "radius: the ball {} covers the box [0, 1], so any image is in it"
    out, said = pgd(fa.Linf(8)), logged.text  # before the flags are read
    (flag,) = out.flags
    assert flag == whole.format("L∞ 8") + "; did you mean Linf(8 / 255)?"
    assert flag in said
    assert pgd(fa.Linf(0.99)).flags == ()
    assert pgd(fa.L2(1.0)).flags == (whole.format("L2 1"),)
    assert pgd(fa.Linf(256)).flags[0].endswith("any image is in it")
    assert fa.attacks.fmn(Threshold(), DATA.x, DATA.y, fa.Linf(8), steps=2).flags == ()
    (flag,) = pgd(fa.Linf(torch.tensor([8, *[0.1] * 5]))).flags
    assert flag == "radius: the balls of some samples cover the box [0, 1], so any image is in them"
    both = dict.fromkeys("ab", partial(fa.attacks.fgsm, threat=fa.Linf(8)))
    notes = evaluate(Threshold(), DATA, both, indicators=False).notes()
    assert [note.partition(" the ball")[0] for note in notes if "covers" in note] == ["a, b: radius:"]


def test_class_masks_of_minus_infinity_are_refused_with_the_cure():
    class Masked(Threshold):
        def forward(self, x):
            return torch.nn.functional.pad(super().forward(x), (0, 1), value=-math.inf)

    for call in (lambda net: ATTACK(net, DATA.x, DATA.y), lambda net: evaluate(net, DATA, {"pgd": ATTACK})):
        refuses("the logit -1e30, not -inf", call, Masked())
