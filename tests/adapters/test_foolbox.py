"""foolbox' calls with our attacks, and its attacks by our calls; most with the real package."""

import inspect
from fnmatch import fnmatchcase
from functools import partial
from math import inf

import numpy as np
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
    ours = fa.attacks.bim(model, x, y, fa.Linf(0.05), steps=10, step_size=0.01, loss="ce", stop_early=False)
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


@pytest.mark.parametrize("name", ["LinfPGD", "L2DeepFoolAttack"])
def test_epsilons_of_an_array(name):
    model, x, y = problem()
    attack, fmodel = getattr(foolbox, name)(steps=3), Bounded(model)
    runs = []
    for epsilons in (np.linspace(0, 0.1, 3), torch.linspace(0, 0.1, 3).double(), [0.0, 0.05, 0.1]):
        torch.manual_seed(0)
        runs.append(attack(fmodel, x, y, epsilons=epsilons)[2])
    assert runs[0].shape == (3, len(x))
    assert torch.equal(runs[0], runs[2])
    assert torch.equal(runs[1], runs[2])


def test_what_was_not_found_is_no_success():
    _, x, y = problem()
    constant = Bounded(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)))
    with torch.no_grad():
        constant.model[1].weight.zero_()
        constant.model[1].bias.copy_(torch.tensor([1.0, 0, 0, 0, 0]))
    raw, _, success = foolbox.L2FMNAttack(steps=2)(constant, x, torch.zeros_like(y), epsilons=[None, 9.0])
    assert not success.any()
    assert torch.equal(raw[0], x)


def test_momentum_and_restarts_count():
    model, x, y = problem()
    fmodel, kind = Bounded(model), foolbox.LinfMomentumIterativeFastGradientMethod
    ours = fa.attacks.mim(
        model, x, y, fa.Linf(0.01), steps=10, step_size=0.002, decay=1.0, loss="ce", stop_early=False
    )
    torch.testing.assert_close(kind()(fmodel, x, y, epsilons=0.01)[1], ours.x_adv)
    assert kind(momentum=0.5).ours(0.01).keywords["decay"] == 0.5
    seen = []
    fmodel.model.register_forward_hook(lambda *given: seen.append(len(given[2])))
    foolbox.LinfPGD(steps=2)(fmodel, x, y, epsilons=0.0001)
    once = sum(seen)
    foolbox.LinfPGD(steps=2).repeat(3)(fmodel, x, y, epsilons=0.0001)
    assert sum(seen) - once > 2 * once
    assert kind().repeat(2).repeat(3).restarts == 6


def test_a_success_at_epsilon_itself_counts():
    model, x, y = problem()
    raw, _, found = foolbox.LInfFMNAttack(steps=20)(Bounded(model), x, y, epsilons=None)
    place = int(found.int().argmax())
    far = (raw - x)[place].abs().max().item()
    _, _, success = foolbox.LInfFMNAttack(steps=20)(Bounded(model), x, y, epsilons=[far, far * 0.99])
    assert success[:, place].tolist() == [True, False]


def test_budgets_are_in_units_of_the_bounds():
    model, x, y = problem()
    scaled = torch.nn.Sequential(fa.models.Normalized(torch.nn.Identity(), [1.0], [2.0]), model)
    one = foolbox.LinfBasicIterativeAttack()(Bounded(model), x, y, epsilons=[0.02])[1][0]
    two = foolbox.LinfBasicIterativeAttack()(Bounded(scaled, (1, 3)), 2 * x + 1, y, epsilons=[0.04])[1][0]
    torch.testing.assert_close((two - 1) / 2, one)


def test_the_network_is_seen_in_eval_mode_and_left_alone():
    model, x, y = problem()
    fmodel = Bounded(model)
    expected = foolbox.LinfBasicIterativeAttack()(fmodel, x, y, epsilons=0.05)[2]

    def closure(network):  # where their PyTorchModel keeps the network
        model = network
        return lambda points: model(points)

    fmodel._model = closure(model.train())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert torch.equal(foolbox.LinfBasicIterativeAttack()(fmodel, x, y, epsilons=0.05)[2], expected)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_is_refused(monkeypatch):
    for name, other in (("GenAttack", "square"), ("LinfAdamPGD", "apgd"), ("L1BrendelBethgeAttack", "FMN")):
        with pytest.raises(fa.InputError, match=rf"{name}.*{other}"):
            getattr(foolbox, name)
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
    missing = {k for k in kinds - {*foolbox.SERVED} if not any(fnmatchcase(k, p) for p in foolbox.INSTEAD)}
    assert missing == {"BoundaryAttack", "HopSkipJumpAttack"}
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
def test_their_model_in_training_mode_and_their_tensors(real):
    import eagerpy

    model, x, y = problem()
    with pytest.warns(UserWarning, match="training mode"):
        fmodel = foolbox.PyTorchModel(model, bounds=(0, 1)).transform_bounds((0, 255), wrapper=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images, labels = eagerpy.astensors(255 * x, y)
    raw, _, success = foolbox.L2DeepFoolAttack()(fmodel, images, labels, epsilons=[None])
    assert isinstance(raw[0], eagerpy.PyTorchTensor)
    assert torch.equal(model.eval()(raw[0].raw / 255).argmax(1) != y, success.raw[0])
    assert success.sum().item() > len(x) // 2
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


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
