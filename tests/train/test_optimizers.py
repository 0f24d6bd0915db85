"""Optimizers by name and by function, groups of parameters, and fp16."""

import functools

import pytest
import torch
from torch import nn

from fastadv.errors import InputError
from fastadv.runs import checkpoint
from fastadv.train import AWP, Execution, Optimization, Standard, fit
from fastadv.train.optim import find_rate, make_optimizer

from .nets import assert_same, images, net, stopped
from .recipes.test_own_step import Spy

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
        for optimizer, each in ((ours, model), (theirs, twin)):
            for k, weight in enumerate(each.parameters()):
                weight.grad = weight.detach().sin() + k
            optimizer.step()
    assert_same(model, twin)


def test_groups_have_their_own_decay():
    model = nn.ModuleDict(
        {
            "stem": nn.Linear(3, 4),
            "norm": nn.LayerNorm((2, 4)),
            "head": nn.Linear(4, 2),
            "bn": nn.BatchNorm1d(4),
        }
    )
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
    "no optimizer": (lambda groups: groups, "returns a torch.optim.Optimizer, got one that returns a list"),
    "its own weights": (
        lambda groups: torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1),
        "over the",
    ),
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


def test_fp16_trains_near_fp32_and_resumes_with_its_scale(tmp_path):
    options = {"epochs": 2, "batch_size": 10, "optimization": Optimization(clip_norm=1.0)}
    call = functools.partial(fit, train_set=images(), recipe=AWP(Standard()), **options)
    exact, whole, again, cut = (net() for _ in range(4))
    for each in (exact, whole, again, cut):
        each[4].p = 0.0  # masks of fp16 are drawn otherwise
    (_, first), (_, last) = call(exact), call(whole, execution=Execution(precision="fp16"))
    assert last.loss == pytest.approx(first.loss, rel=0.05)
    assert not torch.equal(exact[0].weight, whole[0].weight)
    fp16 = Execution(precision="fp16", checkpoint_every=3)
    stopped(7, call, cut, run_dir=tmp_path, execution=fp16)
    path = tmp_path / "checkpoint.safetensors"
    assert checkpoint.load(path).tensors["scale"].tolist() == [2.0**16, 5.0]
    call(again, run_dir=tmp_path, resume=True, execution=fp16)
    assert_same(again, whole)
    assert checkpoint.load(path).tensors["scale"].tolist() == [2.0**16, 10.0]


def test_a_step_that_overflows_is_left_out_and_halves_the_scale(tmp_path):
    def steep(model, x, y, *, ids=None, seed=0):
        return model(x).float().sum() * next(slopes)

    slopes = iter([1e35, 1e-3])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = model[1].weight.clone()
    call = functools.partial(
        fit, model, images(20), steep, epochs=1, batch_size=10, run_dir=tmp_path, identity="1",
        execution=Execution(precision="fp16"), optimization=Optimization(weight_decay=0.0, momentum=0.0),
    )  # fmt: skip
    call()
    assert checkpoint.load(tmp_path / "checkpoint.safetensors").tensors["scale"].tolist() == [2.0**15, 1.0]
    assert model[1].weight.isfinite().all()
    assert 0 < (model[1].weight - before).abs().max() < 1e-2


def test_fp16_is_refused_where_it_would_round_weights_or_gradients_away():
    fp16 = Execution(precision="fp16")
    with pytest.raises(InputError, match="precision: expected weights in float32 for 'fp16'"):
        fit(net().double(), images(), Standard(), epochs=1, execution=fp16)
    with pytest.raises(InputError, match=r"precision: .* Spy, which takes gradients itself"):
        fit(net(), images(), Spy(), epochs=1, execution=fp16)
