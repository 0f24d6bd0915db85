"""Attacks of an evaluation: names, functions and dictionaries, with the threat said once."""

from functools import partial
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError

DIGITS = fa.data.load("digits", "test")
MODEL = fa.models.create("softmax", shape=(1, 8, 8), classes=10, seed=0)
DATA = DIGITS.x[:12], MODEL(DIGITS.x[:12]).argmax(1)
BALL = fa.Linf(0.02)
OWN = partial(fa.attacks.fgsm, threat=BALL)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("fgsm", ["fgsm"]),
        (fa.attacks.fgsm, ["fgsm"]),
        (["fgsm", partial(fa.attacks.bim, steps=2)], ["fgsm", "bim"]),
        ({"first": "fgsm", "second": partial(fa.attacks.fgsm, restarts=1)}, ["first", "second"]),
        ({"own": OWN, "given": "fgsm"}, ["own", "given"]),
        ({"given": fa.attacks.fgsm, "own": OWN}, ["given", "own"]),
        ({"given": "fgsm", "own": lambda *given, ids: OWN(*given, ids=ids)}, ["given", "own"]),
    ],
)
def test_names_and_functions_take_the_threat(given: Any, names: list[str]) -> None:
    table = fa.evaluate(MODEL, DATA, given, threat=BALL, indicators=False)
    assert [row.name for row in table.rows] == names
    wanted = fa.evaluate(MODEL, DATA, {"fgsm": OWN}, indicators=False)
    assert table.rows[0].robust_accuracy == wanted["fgsm"].robust_accuracy
    assert torch.equal(table.rows[0].distance, wanted["fgsm"].distance)


def test_a_threat_that_is_bound_is_kept() -> None:
    wide = partial(fa.attacks.fgsm, threat=fa.Linf(0.9))
    table = fa.evaluate(MODEL, DATA, {"wide": wide, "fgsm": "fgsm"}, threat=fa.Linf(0.0), indicators=False)
    assert table["wide"].robust_accuracy < table["fgsm"].robust_accuracy == 1


@pytest.mark.parametrize(
    ("given", "threat", "said"),
    [
        ("fgsm", None, "threat: expected one for fgsm, got None"),
        ("fgms", BALL, "did you mean 'fgsm'"),
        ("PGD", BALL, "did you mean 'pgd'"),
        (["fgsm", fa.attacks.fgsm], BALL, "got two of 'fgsm'"),
        ({"own": OWN}, BALL, r"threat: expected None.* got Linf\(.*leave it out"),
        ({"x": 3}, BALL, r"attacks\['x'\]: expected a name or a function .* got int"),
        (None, BALL, "threat: expected None, as nothing here takes it"),
        ("fgsm", fa.Linf(0.1, box=(2, 3)), r"pixels in \[2, 3\], the box of attacks\['fgsm'\], got 0 to 1"),
        ([OWN], BALL, "threat: expected None, as nothing here takes it"),
        ({"a": OWN, "b": partial(fa.attacks.pgd, threat=BALL)}, fa.L2(1), r"nothing here takes it, got L2\("),
        (lambda model, x, y, *, ids: OWN(model, x, y), BALL, "nothing here takes it"),
        (lambda model, x, y, *, ids, threat=BALL: OWN(model, x, y), BALL, "nothing here takes it"),
        (3, BALL, r"attacks\['int'\]: expected a name or a function"),
        ("fgsm", 0.1, "threat: expected fa.Linf, L2, L1 or L0, got 0.1; a radius needs a norm"),
    ],
)
def test_what_cannot_be_is_refused(given: Any, threat: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fa.evaluate(MODEL, DATA, given, threat=threat)
