"""Optimizers by name and by function, and groups of parameters."""

import functools

import pytest
import torch
from torch import nn

from fastadv.errors import InputError
from fastadv.train import Optimization, Standard, fit
from fastadv.train.optim import find_rate, make_optimizer

from .nets import assert_same, images, net

RMSPROP = functools.partial(torch.optim.RMSprop, lr=0.01)
OF_TORCH = {
    "sgd": lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda w: torch.optim.Adam(w, 0.1, weight_decay=0.01),
    "adamw": lambda w: torch.optim.AdamW(w, 0.1, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OF_TORCH)
def test_a_name_is_that_optimizer_of_torch(name):
    model, twin = net(), net()
    ours = make_optimizer(model, name, 0.1, Optimization(weight_decay=0.01))
    theirs = OF_TORCH[name](twin.parameters())
    assert find_rate(name, None) == (1e-3 if name.startswith("adam") else 0.05)
    for _ in range(3):
        for optimizer, trained in ((ours, model), (theirs, twin)):
            for k, weight in enumerate(trained.parameters()):
                weight.grad = weight.detach().sin() + k
            optimizer.step()
    assert_same(model, twin)


def test_groups_have_their_own_decay():
    model = nn.ModuleDict({"stem": nn.Linear(3, 4), "norm": nn.LayerNorm((2, 4))})
    model.update({"head": nn.Linear(4, 2), "bn": nn.BatchNorm1d(4)})
    model["head"].bias.requires_grad_(False)
    optimizer = make_optimizer(model, "adamw", 0.1, Optimization(weight_decay=0.01, norm_decay=False))
    names = {id(weight): name for name, weight in model.named_parameters()}
    met = {
        names[id(weight)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert met == {
        "stem.weight": (0.1, 0.01), "stem.bias": (0.1, 0.0), "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0), "head.weight": (0.1, 0.01), "bn.weight": (0.1, 0.0), "bn.bias": (0.1, 0.0),
    }  # fmt: skip


class Hoarder(torch.optim.SGD):
    kept = staticmethod(lambda weight: [weight])

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["hoard"] = self.kept(weight)


BAD = {
    "name": ("lion", "expected one of sgd, nesterov, adam, adamw"),
    "no optimizer": (lambda groups: groups, "returns a torch.optim.Optimizer.* got a list"),
    "its own weights": (lambda groups: torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), "others"),
    "closure": (lambda groups: torch.optim.LBFGS(groups), "closure"),
    "state": (functools.partial(Hoarder, lr=0.1), "Hoarder with others"),
}


@pytest.mark.parametrize(("optimizer", "match"), BAD.values(), ids=BAD)
def test_what_cannot_train_or_be_kept_is_refused_before_the_first_step(optimizer, match, tmp_path):
    model, seen = net(), []
    with pytest.raises(InputError, match=f"optimizer: .*{match}"):
        fit(model, images(), Standard(), epochs=1, optimizer=optimizer, run_dir=tmp_path / "a",
            progress=lambda done, total: seen.append(done))  # fmt: skip
    assert not seen
    assert_same(model, net())


@pytest.mark.parametrize("options", [{"momentum": 0.5}, {"weight_decay": 0.1}], ids=str)
def test_options_that_a_function_has_itself_are_refused_beside_it(options):
    with pytest.raises(InputError, match=rf"{next(iter(options))}: expected it in the optimizer"):
        fit(net(), images(), Standard(), epochs=1, optimizer=RMSPROP, optimization=Optimization(**options))
    with pytest.raises(InputError, match="momentum: expected a number > 0 for 'nesterov'"):
        make_optimizer(net(), "nesterov", 0.1, Optimization(momentum=0))
    assert find_rate(RMSPROP, None) is None
