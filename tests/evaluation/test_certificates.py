"""Certificates beside attacks: their column, and one that does not hold is said loudly."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import fastadv as fa
from tests.certify.nets import SIGMA, halfspace, images
from tests.refusals import refuses

MODEL, DATA = halfspace(), images(10)


@pytest.mark.slow
def test_certificates_stand_beside_attacks_and_are_not_contradicted_by_honest_ones() -> None:
    proved = fa.certify.smooth(MODEL, DATA, SIGMA, n=2000)
    smoothed = fa.models.Smoothed(MODEL, SIGMA, noises=64)
    attacks = {
        "near": partial(fa.attacks.pgd, threat=fa.L2(0.4)),
        "linf": partial(fa.attacks.fgsm, threat=fa.Linf(0.02)),
    }
    table = fa.evaluate(smoothed, DATA, attacks, certificates=proved)
    wanted = ["certified", f"{proved.clean_accuracy:.1%}", f"{proved.accuracy(0.4):.1%}", "-"]
    assert [line[-1] for line in table.cells()[:4]] == wanted
    assert table.contradicted is not None
    assert len(table.contradicted) == 0
    assert proved.accuracy(0.4) <= table["near"].robust_accuracy  # from below, and from above


@pytest.mark.slow
def test_a_certificate_that_an_attack_beats_is_a_contradiction() -> None:
    honest = fa.certify.smooth(MODEL, DATA, SIGMA, n=500)
    forged = replace(honest, radius=honest.radius + 2, abstained=torch.zeros(10, dtype=torch.bool))
    far = partial(fa.attacks.deepfool, threat=fa.L2(1.5), overshoot=0.5)
    table = fa.evaluate(MODEL, DATA, far, certificates=forged)
    assert table.verdict.startswith("Do not trust the certificates: attacks found points within")
    assert "contradiction" in str(table)
    assert table.contradicted is not None
    assert len(table.contradicted) >= 3
    stored = replace(forged, model=None)  # as from a file: they are of the model within a smoothed one
    for model in (fa.models.Smoothed(MODEL, SIGMA, noises=2), MODEL):
        tables = (fa.evaluate(model, DATA, far, certificates=one) for one in (forged, stored))
        one, other = (table.contradicted for table in tables)
        assert torch.equal(one, other)


def test_examples_of_another_norm_hide_no_contradiction() -> None:
    honest = fa.certify.smooth(MODEL, DATA, SIGMA, n=100)
    forged = replace(honest, radius=honest.radius * 0 + 1.5, abstained=torch.zeros(10, dtype=torch.bool))
    far = partial(fa.attacks.deepfool, threat=fa.L2(1.5), overshoot=0.5)
    alone = fa.evaluate(MODEL, DATA, far, certificates=forged)
    # 0.9 comes before 1.5, but such examples are farther away in L2
    both = {"linf": partial(fa.attacks.fgsm, threat=fa.Linf(0.9)), "l2": far}
    for attacks in (both, dict(reversed(both.items()))):
        table = fa.evaluate(MODEL, DATA, attacks, certificates=forged)
        assert table["linf"].broken[alone.contradicted].any()
        assert len(alone.contradicted) >= 3
        assert torch.equal(table.contradicted, alone.contradicted)


def test_certificates_of_other_images_are_refused() -> None:
    proved = fa.certify.smooth(MODEL, DATA, SIGMA, n=100)
    for options in (
        {"limit": 5, "certificates": proved},
        {"certificates": replace(proved, ids=proved.ids + 1)},
    ):
        refuses("certificates", fa.evaluate, MODEL, DATA, "fgsm", threat=fa.Linf(0.1), **options)
