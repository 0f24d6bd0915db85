"""ART's calls with our attacks, and its attacks by our calls; most with the real package."""

import inspect
from functools import partial
from math import inf
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fastadv as fa
from fastadv.adapters import art
from tests.adapters.nets import problem


def classifier(model, **more):
    """What our side asks of a PyTorchClassifier."""
    return SimpleNamespace(
        **{"model": model, "clip_values": (0.0, 1.0), "device": torch.device("cpu"), **more}
    )


def test_arrays_in_and_out():
    model, x, y = problem()
    made = classifier(model)
    ours = fa.attacks.bim(
        model, x, y, fa.Linf(0.05), steps=4, step_size=0.02, loss="ce", stop_early=False
    ).x_adv
    attack = art.BasicIterativeMethod(estimator=made, eps=0.05, eps_step=0.02, max_iter=4)
    for labels in (y.numpy(), np.eye(5)[y.numpy()]):
        adv = attack.generate(x=x.numpy(), y=labels)
        assert adv.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(adv), ours)
    own = model.eval()(x).argmax(1).numpy()
    assert np.array_equal(attack.generate(x.numpy()), attack.generate(x.numpy(), own))
    attack.set_params(eps=0.01)
    assert np.abs(attack.generate(x.numpy(), y.numpy()) - x.numpy()).max() <= 0.01 * (1 + 1e-6)


def test_units_of_the_clip_values_and_the_order_of_preprocessing():
    model, x, _ = problem()
    first, then = SimpleNamespace(mean=1.0, std=2.0), SimpleNamespace(mean=0.1, std=1.2)
    made = classifier(model, clip_values=(1.0, 3.0), preprocessing_operations=[first, then])
    two = art.BasicIterativeMethod(made, eps=0.1, eps_step=0.04, max_iter=4).generate(2 * x.numpy() + 1)
    alone = classifier(model, preprocessing_operations=[then])
    one = art.BasicIterativeMethod(alone, eps=0.05, eps_step=0.02, max_iter=4).generate(x.numpy())
    assert np.abs((two - 1) / 2 - one).max() < 1e-5
    assert np.abs(one - x.numpy()).max() > 0.04


@pytest.mark.parametrize(("given", "restarts", "random"), [(0, 1, False), (1, 1, True), (3, 3, True)])
def test_random_starts(given, restarts, random):
    attack = art.ProjectedGradientDescent(classifier(problem()[0]), num_random_init=given)
    assert (attack.ours.keywords["restarts"], attack.ours.keywords["random_start"]) == (restarts, random)


def test_targets():
    model, x, y = problem()
    aims = (y + 1) % 5
    attack = art.ProjectedGradientDescent(classifier(model), eps=0.5, max_iter=10, targeted=True)
    adv = torch.from_numpy(attack.generate(x.numpy(), aims.numpy()))
    assert (model.eval()(adv).argmax(1) == aims).sum() > len(x) // 2
    with pytest.raises(fa.InputError, match="classes to reach"):
        attack.generate(x.numpy())


def test_what_is_refused():
    model, x, _ = problem()
    with pytest.raises(fa.InputError, match=r"SimBA.*SquareAttack"):
        art.SimBA  # noqa: B018
    for wrong in ({"clip_values": None}, {"preprocessing_defences": [1]}, {"preprocessing_operations": [1]}):
        with pytest.raises(fa.InputError, match=next(iter(wrong)).partition("_op")[0]):
            art.FastGradientMethod(classifier(model, **wrong)).generate(x.numpy())
    with pytest.raises(fa.InputError, match="norm, eps"):
        art.FastGradientMethod(classifier(model), norm=7).generate(x.numpy())
    with pytest.raises(fa.InputError, match="set_params"):
        art.FastGradientMethod(classifier(model)).set_params(epsilon=3)


@pytest.fixture
def real():
    return pytest.importorskip(
        "art.attacks.evasion", reason="adversarial-robustness-toolbox is not installed"
    )


def theirs(model, **more):
    from art.estimators.classification import PyTorchClassifier

    loss = torch.nn.CrossEntropyLoss()
    return PyTorchClassifier(
        model=model, clip_values=(0.0, 1.0), loss=loss, input_shape=(1, 8, 8), nb_classes=5,
        device_type="cpu", **more,
    )  # fmt: skip


@pytest.mark.slow
def test_names_arguments_and_defaults_are_theirs(real):
    for name in art.SERVED:
        one, two = (inspect.signature(getattr(each, name)).parameters for each in (real, art))
        assert [(k, p.default) for k, p in two.items()] == [(k, p.default) for k, p in one.items()], name
    assert all(hasattr(real, name) for name in art.INSTEAD)


SHORT = {"AutoAttack": {"eps": 0.1}, "CarliniL2Method": {"initial_const": 1.0, "max_iter": 30},
         "ElasticNet": {"decision_rule": "L1", "initial_const": 10.0, "max_iter": 20},
         "SquareAttack": {"eps": 0.3}}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(art.SERVED))
def test_with_their_classifier_and_in_their_form(real, name):
    model, x, _ = problem()
    made = theirs(model, preprocessing=(0.1, 1.2))
    adv = getattr(art, name)(made, **SHORT.get(name, {})).generate(x=x.numpy())
    found = made.predict(adv).argmax(1) != made.predict(x.numpy()).argmax(1)
    assert found.sum() > 3


@pytest.mark.slow
def test_both_in_one_table(real):
    model, x, y = problem(30)
    data, threat = fa.data.ImageSet(x, y, 5, "random"), fa.Linf(0.02)
    one = art.wrap(real.BasicIterativeMethod, eps_step=0.005, max_iter=5)
    table = fa.evaluate(model, data, {
        "theirs": partial(one, threat=threat),
        "ours": partial(fa.attacks.bim, step_size=0.005, steps=5, threat=threat),
        "nearest": partial(art.wrap(real.DeepFool, max_iter=20), threat=fa.L2(inf)),
    })  # fmt: skip
    assert torch.equal(table["theirs"].broken, table["ours"].broken)
    assert table["theirs"].broken.any()
    assert table["nearest"].minimum_norm
    assert table["nearest"].broken.float().mean() > 0.8
    rough = art.wrap(real.HopSkipJump, max_iter=1, max_eval=20, init_eval=5)  # it passes float64
    assert rough(model, x[:6], y[:6], fa.L2(inf)).success.all()
    attack = art.wrap(real.ProjectedGradientDescent, eps_step=0.1, max_iter=10)
    out = attack(model, x, y, fa.Linf(0.5), targets=(y + 1) % 5)
    assert (model.eval()(out.x_adv).argmax(1) == (y + 1) % 5).sum() > len(x) // 2


def test_random_starts_hang_on_no_batch(monkeypatch):
    model, x, y = problem()
    given, found = {"eps": 0.05, "eps_step": 0.02, "max_iter": 3, "num_random_init": 1}, []
    attack = art.ProjectedGradientDescent(classifier(model), **given)
    for size in (256, 5):
        monkeypatch.setattr(art.Attack, "_size", size)
        torch.manual_seed(0)
        found.append(attack.generate(x.numpy(), y.numpy()))
    assert np.abs(found[0] - found[1]).max() < 1e-6
