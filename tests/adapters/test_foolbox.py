"""foolbox' calls with our attacks, and its attacks by our calls; most with the real package."""

import inspect
from functools import partial
from math import inf

import pytest
import torch

import fastadv as fa
from fastadv.adapters import foolbox
from fastadv.adapters.meaning.foolbox import ALIASES, MINIMUM
from fastadv.errors import MissingExtraError
from tests.adapters.nets import problem


class Bounded:
    """What our side asks of a PyTorchModel."""

    def __init__(self, model, bounds=(0, 1)):
        self.model, self.bounds = model.eval(), bounds

    def __call__(self, x):
        return self.model(x)


def test_one_result_for_each_epsilon():
    model, x, y = problem()
    fmodel, epsilons = Bounded(model), [0.0, 0.01, 0.05]
    raw, clipped, success = foolbox.attacks.LinfPGD(steps=5)(fmodel, x, y, epsilons=epsilons)
    assert success.shape == (3, len(x))
    assert success.sum(1).tolist() == sorted(success.sum(1).tolist())
    assert success[0].sum() == 1  # the one that was wrong
    assert success[2].sum() > success[0].sum()
    for at, (points, inside, broken) in zip(epsilons, zip(raw, clipped, success, strict=True), strict=True):
        assert torch.equal(points, inside)
        assert (points - x).abs().max() <= at * (1 + 1e-6)
        assert torch.equal(model(points).argmax(1) != y, broken)
    one = foolbox.LinfBasicIterativeAttack()(fmodel, x, y, epsilons=0.05)
    ours = fa.attacks.bim(model, x, y, fa.Linf(0.05), steps=10, step_size=0.01, stop_early=False)
    torch.testing.assert_close(one[1], ours.x_adv)
    with pytest.raises(fa.InputError, match="epsilons"):
        foolbox.LinfPGD()(fmodel, x, y, epsilons=None)


def test_the_nearest_success_and_what_lies_within():
    model, x, y = problem()
    raw, clipped, success = foolbox.L2DeepFoolAttack()(Bounded(model), x, y, epsilons=[None, 0.1])
    distance = (raw[0] - x).flatten(1).norm(dim=1)
    assert torch.equal(success[1], success[0] & (distance <= 0.1))
    assert 0 < success[1].sum() < success[0].sum()
    assert torch.equal(clipped[1][~success[1]], x[~success[1]])
    assert torch.equal(clipped[1][success[1]], raw[0][success[1]])


def test_what_is_refused(monkeypatch):
    with pytest.raises(fa.InputError, match=r"GenAttack.*square"):
        foolbox.GenAttack  # noqa: B018
    with pytest.raises(TypeError):
        foolbox.LinfPGD(eps=3)
    with pytest.raises(fa.InputError, match="decision_rule"):
        foolbox.EADAttack().ours  # noqa: B018
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install foolbox"):
        foolbox.PyTorchModel  # noqa: B018


@pytest.fixture
def real():
    return pytest.importorskip("foolbox", reason="foolbox is not installed")


@pytest.mark.slow
def test_names_arguments_and_defaults_are_theirs(real):
    kinds = {k for k, v in vars(real.attacks).items() if isinstance(v, type)} - {"Attack"}
    missing = kinds - {*foolbox.SERVED, *foolbox.INSTEAD}
    assert missing == {"BoundaryAttack", "HopSkipJumpAttack"} - {*foolbox.SERVED, *foolbox.INSTEAD}
    for name in foolbox.SERVED:
        theirs = inspect.signature(getattr(real.attacks, name)).parameters
        ours = inspect.signature(getattr(foolbox, name)).parameters
        assert [(k, p.default) for k, p in ours.items()] == [(k, p.default) for k, p in theirs.items()], name


SHORT = {"L2CarliniWagnerAttack": {"steps": 30, "initial_const": 1.0, "binary_search_steps": 3},
         "EADAttack": {"steps": 30, "initial_const": 10.0, "binary_search_steps": 2,
                       "decision_rule": "L1"}}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*foolbox.SERVED} - {*ALIASES}))
def test_with_their_model_and_in_their_form(real, name):
    model, x, y = problem()
    fmodel = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), preprocessing={"mean": 0.1, "std": 1.2})
    epsilons = [3.0] if name in MINIMUM else [0.0, 0.5]
    attack = getattr(foolbox.attacks, name)(**SHORT.get(name, {}))
    _, advs, success = attack(fmodel, x, y, epsilons=epsilons)
    with torch.no_grad():
        assert torch.equal(fmodel(advs[-1]).argmax(-1) != y, success[-1])
    assert success[-1].sum() > 3


@pytest.mark.slow
def test_their_criteria_and_restarts(real):
    model, x, y = problem()
    fmodel, targets = foolbox.PyTorchModel(model.eval(), bounds=(0, 1)), (y + 1) % 5
    criterion = foolbox.criteria.TargetedMisclassification(targets)
    attack = foolbox.LinfPGD(rel_stepsize=0.2, steps=10).repeat(2)
    assert attack.restarts == 2
    _, points, success = attack(fmodel, x, criterion, epsilons=0.5)
    assert torch.equal(model(points).argmax(1) == targets, success)
    assert success.sum() > len(x) // 2


@pytest.mark.slow
def test_both_in_one_table(real):
    model, x, y = problem(40)
    data, threat = fa.data.ImageSet(x, y, 5, "random"), fa.Linf(0.02)
    table = fa.evaluate(model, data, {
        "theirs": partial(foolbox.wrap(real.attacks.LinfBasicIterativeAttack, steps=5), threat=threat),
        "ours": partial(fa.attacks.bim, step_size=0.2 * 0.02, steps=5, threat=threat),
        "nearest": partial(foolbox.wrap(real.attacks.L2DeepFoolAttack()), threat=fa.L2(inf)),
    })  # fmt: skip
    assert torch.equal(table["theirs"].broken, table["ours"].broken)
    assert table["theirs"].broken.any()
    assert table["nearest"].minimum_norm
    assert table["nearest"].broken.float().mean() > 0.8
    out = foolbox.wrap(real.attacks.LinfPGD)(model, x, y, fa.Linf(0.5), targets=(y + 1) % 5)
    assert (model.eval()(out.x_adv).argmax(1) == (y + 1) % 5).sum() > len(x) // 2
