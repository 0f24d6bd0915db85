"""Attacks of the real packages by our calls, beside ours."""

from functools import partial
from math import inf

import pytest
import torch

import fastadv as fa
from fastadv.adapters import art, foolbox, torchattacks
from fastadv.errors import MissingExtraError
from tests.adapters.nets import problem

# packages: each one's module; BIM, and what our BIM is then given; an attack for the nearest success in L2,
# and the share that it breaks; and an attack with targets
PACKAGES = {
    "torchattacks": (
        "torchattacks",
        lambda real: torchattacks.wrap(real.BIM, alpha=0.005, steps=10),
        {"step_size": 0.005, "steps": 10},
        lambda real: torchattacks.wrap(real.CW, steps=20),
        0.0,
        lambda real: torchattacks.wrap(real.PGD, alpha=0.1),
    ),
    "foolbox": (
        "foolbox.attacks",
        lambda real: foolbox.wrap(real.LinfBasicIterativeAttack, steps=5),
        {"step_size": 0.2 * 0.02, "steps": 5},
        lambda real: foolbox.wrap(real.L2DeepFoolAttack()),
        0.8,
        lambda real: foolbox.wrap(real.LinfPGD),
    ),
    "art": (
        "art.attacks.evasion",
        lambda real: art.wrap(real.BasicIterativeMethod, eps_step=0.005, max_iter=5),
        {"step_size": 0.005, "steps": 5},
        lambda real: art.wrap(real.DeepFool, max_iter=20),
        0.8,
        lambda real: art.wrap(real.ProjectedGradientDescent, eps_step=0.1, max_iter=10),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_both_in_one_table_and_targets(name):
    module, bim, options, nearest, share, targeted = PACKAGES[name]
    real = pytest.importorskip(module, reason=f"{module} is not installed")
    model, x, y = problem(40)
    data, threat = fa.data.ImageSet(x, y, 5, "random"), fa.Linf(0.02)
    table = fa.evaluate(model, data, {
        "theirs": partial(bim(real), threat=threat),
        "ours": partial(fa.attacks.bim, **options, threat=threat),
        "nearest": partial(nearest(real), threat=fa.L2(inf)),
    })  # fmt: skip
    assert torch.equal(table["theirs"].broken, table["ours"].broken)
    assert table["theirs"].broken.any()
    assert table["theirs"].backwards > 0
    assert table["nearest"].minimum_norm
    assert table["nearest"].broken.float().mean() > share
    targets = (y + 1) % 5
    out = targeted(real)(model, x, y, fa.Linf(0.5), targets=targets)
    assert (model.eval()(out.x_adv).argmax(1) == targets).sum() > len(x) // 2


@pytest.mark.slow
def test_a_package_that_passes_float64():
    real = pytest.importorskip("art.attacks.evasion", reason="adversarial-robustness-toolbox is missing")
    model, x, y = problem(6)
    rough = art.wrap(real.HopSkipJump, max_iter=1, max_eval=20, init_eval=5)
    assert rough(model, x, y, fa.L2(inf)).success.all()


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install foolbox"):
        foolbox.wrap(object)
