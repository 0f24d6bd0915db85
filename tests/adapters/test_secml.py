"""SecML-Torch's calls with our attacks, and its attacks by our calls."""

import inspect
from functools import partial
from math import inf
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastadv as fa
from fastadv.adapters import foreign, secml
from tests.adapters.nets import problem

# where the package has its classes, and a call of each that is short
MODULES = {"PGD": "pgd", "FGSM": "fgsm", "FMN": "fmn", "DDN": "ddn", "CW": "cw", "DeepFool": "deepfool"}
BUDGET = {"perturbation_model": "linf", "epsilon": 0.05}
SHORT = {
    "PGD": {**BUDGET, "num_steps": 4, "step_size": 0.02},
    "FGSM": BUDGET,
    "FMN": {"perturbation_model": "l2", "num_steps": 20, "step_size": 1.0},
    "DDN": {"num_steps": 20},
    "CW": {"binary_search_steps": 2, "num_steps": 30, "initial_const": 1.0},
    "DeepFool": {},
}


def loader(x, y, size: int = 5) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=size)


@pytest.mark.slow
def test_a_loader_in_and_out():
    model, x, y = problem()
    options = {"random_start": False, "loss": "ce", "stop_early": False}
    ours = fa.attacks.pgd(model, x, y, fa.Linf(0.05), steps=4, step_size=0.02, **options).x_adv
    attack = secml.PGD(**SHORT["PGD"])
    made = attack(model, loader(x, y))
    assert made.batch_size == 5
    assert torch.equal(made.dataset.tensors[0], ours)
    assert torch.equal(made.dataset.tensors[1], y)
    streamed = list(attack(model, loader(x, y), stream=True))
    assert [len(labels) for _, labels in streamed] == [5, 5, 2]
    assert torch.equal(torch.cat([one for one, _ in streamed]), ours)
    assert model.training


@pytest.mark.slow
def test_random_starts_hang_on_no_batch():
    model, x, y = problem()
    attack = secml.PGD(**SHORT["PGD"], random_start=True)
    found = []
    for size in (5, 12):
        torch.manual_seed(0)
        found.append(attack(model, loader(x, y, size)).dataset.tensors[0])
    torch.testing.assert_close(*found)
    assert not torch.equal(found[0], attack(model, loader(x, y)).dataset.tensors[0])


@pytest.mark.slow
def test_the_processing_of_a_classifier_and_its_box():
    model, x, y = problem()
    scaled = SimpleNamespace(
        model=model.eval(), _preprocessing=lambda x: x / 2, _postprocessing=lambda logits: -logits
    )
    attack = secml.FGSM("linf", 0.1, lb=0.0, ub=2.0)
    turned = nn.Sequential(model[:-1], nn.Linear(256, 5))
    turned[-1].load_state_dict({key: -value for key, value in model[-1].state_dict().items()})
    y = turned.eval()(x).argmax(1)
    one = attack(scaled, loader(2 * x, y)).dataset.tensors[0]
    two = secml.FGSM("linf", 0.05)(turned, loader(x, y)).dataset.tensors[0]
    torch.testing.assert_close(one / 2, two)
    assert not torch.equal(two, x)


@pytest.mark.slow
def test_a_target():
    model, x, y = problem()
    attack = secml.PGD("linf", 0.5, 10, 0.1, y_target=3)
    x_adv = attack(model, loader(x, y)).dataset.tensors[0]
    assert (model.eval()(x_adv).argmax(1) == 3).sum() > len(x) // 2


def test_what_is_refused():
    model, x, y = problem()
    with pytest.raises(fa.InputError, match=r"HopSkipJump.*queries"):
        secml.HopSkipJump  # noqa: B018
    wrong = {"perturbation_model": "l7", "backend": "own", "trackers": [1]}
    for name, value in wrong.items():
        with pytest.raises(fa.InputError, match=name):
            secml.PGD(**{**SHORT["PGD"], name: value})(model, loader(x, y))
    with pytest.raises(fa.InputError, match="min_step_size"):
        secml.FMN(**SHORT["FMN"], min_step_size=0.1)(model, loader(x, y))
    with pytest.raises(fa.InputError, match="BasePyTorchClassifier"):
        secml.FGSM(**BUDGET)(len, loader(x, y))


def real(name: str):
    pytest.importorskip("secmlt", reason="secml-torch is not installed")
    return secml.wrap(f"{MODULES[name]}.{name}").kind


@pytest.mark.slow
def test_names_arguments_and_defaults_are_theirs():
    assert {*MODULES} == {*secml.SERVED}
    for name in MODULES:
        one, two = (inspect.signature(each).parameters for each in (real(name), getattr(secml, name)))
        own = [(key, p.default) for key, p in one.items() if p.kind is not p.VAR_KEYWORD]
        assert [(key, p.default) for key, p in two.items()] == own, name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODULES))
def test_with_their_classifier_and_their_metric(name):
    real(name)
    from secmlt.metrics.classification import Accuracy
    from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier

    model, x, _ = problem()
    classifier = BasePyTorchClassifier(model.eval(), preprocessing=lambda x: (x - 0.1) / 1.2)
    given = loader(x, classifier.predict(x))
    assert Accuracy()(classifier, given) == 1
    assert Accuracy()(classifier, getattr(secml, name)(**SHORT[name])(classifier, given)) < 0.8


@pytest.mark.slow
def test_both_in_one_table():
    model, x, y = problem(30)
    data, threat = fa.data.ImageSet(x, y, 5, "random"), fa.Linf(0.02)
    theirs = secml.wrap(real("PGD"), num_steps=6, step_size=0.005, backend="native")
    near = secml.wrap(real("DDN"), num_steps=50)
    table = fa.evaluate(model, data, {
        "theirs": partial(theirs, threat=threat),
        "ours": partial(fa.attacks.bim, step_size=0.005, steps=6, threat=threat),
        "nearest": partial(near, threat=fa.L2(inf)),
    })  # fmt: skip
    assert torch.equal(table["theirs"].broken, table["ours"].broken)
    assert table["theirs"].broken.any()
    assert table["theirs"].backwards == 6 * 29  # all but the one that was wrong
    assert table["nearest"].minimum_norm
    assert table["nearest"].broken.float().mean() > 0.8
    aims = (y + 1) % 5
    strong = secml.wrap(real("PGD"), num_steps=10, step_size=0.1, backend="native")
    out = strong(model, x, y, fa.Linf(0.5), targets=aims)
    assert (model.eval()(out.x_adv).argmax(1) == aims).sum() > len(x) // 2


def test_a_name_is_imported_after_torchvision_is_made_importable(monkeypatch):
    """Elsewhere the package itself is what tells: beside a torch without CUDA `real` fails otherwise."""
    order = []
    monkeypatch.setattr(foreign._extras, "need_peer", order.append)
    monkeypatch.setattr(foreign, "find_spec", lambda name: True)
    known = SimpleNamespace(PGD=lambda: None)
    monkeypatch.setattr(foreign, "import_module", lambda name: order.append(name) or known)
    assert secml.wrap("pgd.PGD").kind is known.PGD
    assert order == ["secmlt", "fastadv._torchvision", "secmlt.adv.evasion.pgd"]
