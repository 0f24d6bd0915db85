"""Functions around a BatchNorm or Dropout in training mode, which an attack would teach, are refused."""

import functools

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.engine import Plain
from fastadv.errors import InputError
from tests.refusals import refuses

from .nets import around, convnet, darkens, images

X, Y = images()
THREAT = fa.Linf(0.1)
BIM = functools.partial(fa.attacks.bim, threat=THREAT)


AROUND = {
    "lambda": lambda net: lambda x: net(x),
    "partial": lambda net: functools.partial(lambda held, x: held(x), net),
    "state": lambda net: lambda x: torch.func.functional_call(net, dict(net.named_parameters()), (x,)),
    "compiled module": lambda net: lambda x: torch.compile(net, backend="eager")(x),
    "parts": lambda net: lambda x: net[1:](net[0](x)),
    "scripted": lambda net: functools.partial(lambda held, x: held(x), torch.jit.script(net)),
}
ROADS = {
    "pgd": lambda model: fa.attacks.pgd(model, X, Y, THREAT, steps=2),
    "square": lambda model: fa.attacks.square(model, X, Y, THREAT, queries=5),
    "freeze": lambda model: fa.freeze(model)(X),
    "evaluate": lambda model: fa.evaluate(model, [(X, Y)], {"bim": BIM}),
    "indicators": lambda model: fa.attacks.indicators(model, X, Y, THREAT),
    "recipe": lambda model: fa.train.PGDTraining(THREAT, steps=2)(model, X, Y, seed=0),
}


@pytest.mark.slow
@pytest.mark.parametrize(("ways", "roads"), [(["lambda"], [*ROADS]), ([*AROUND], ["pgd"])])
def test_a_net_in_training_mode_is_refused_before_it_learns(ways, roads):
    for way in ways:
        check_refused(way, roads)


def check_refused(way, roads):
    net = convnet().append(nn.Dropout(0.5)).train()
    before, model = torch.random.get_rng_state(), AROUND[way](net)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    for road in roads:
        refuses(r"call its eval\(\), or pass the module", ROADS[road], model)
    assert all(torch.equal(kept[name], value) for name, value in net.state_dict().items())
    assert torch.equal(before, torch.random.get_rng_state())
    if way != "scripted":
        net.eval()
        ROADS["pgd"](model)


PARTS = [nn.Dropout(0.1), nn.AlphaDropout(0.1), nn.TransformerEncoderLayer(5, 1, 8, 0.1), nn.BatchNorm1d(5)]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_each_part_that_learns_or_drops_counts(part):
    net = nn.Sequential(nn.Flatten(), nn.Linear(128, 5), part).train()
    kind = nn.MultiheadAttention if isinstance(part, nn.TransformerEncoderLayer) else type(part)
    refuses(kind.__name__, fa.attacks.fgsm, lambda x: net(x), X, Y, THREAT)


HARMLESS = {
    "ReLU": nn.ReLU,
    "Dropout": lambda: nn.Dropout(0.0),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(5, 1, 8, 0.0),
    "BatchNorm1d": lambda: nn.BatchNorm1d(5).eval(),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_net_whose_mode_changes_nothing_is_attacked(name):
    net = nn.Sequential(nn.InstanceNorm2d(2), nn.Flatten(), nn.Linear(128, 5), HARMLESS[name]()).double()
    x = X.double()  # in float32 the kernels of both modes round apart
    y = net(x).argmax(1)  # no sample is left out, as attention here mixes rows
    found = fa.attacks.fgsm(lambda x: net(x), x, y, THREAT)
    assert net.training
    assert torch.equal(found.x_adv, fa.attacks.fgsm(net, x, y, THREAT).x_adv)


def test_dropout_that_is_meant_is_kept_and_a_batch_norm_is_not():
    net = convnet().append(nn.Dropout(0.5)).eval()
    net[-1].train()
    fa.attacks.fgsm(lambda x: net(x), X, Y, THREAT)
    refuses("Dropout", fa.attacks.fgsm, lambda x: net[-1](net[:-1](x)), X, Y, THREAT)
    net[1].train()
    refuses("BatchNorm2d", fa.attacks.fgsm, lambda x: net(x), X, Y, THREAT)


def test_a_net_that_trains_where_a_gradient_is_followed_is_refused():
    net = convnet()
    with pytest.raises(InputError, match=r"call its eval\(\), or pass the module"):
        fa.attacks.fgsm(lambda x: net.train(torch.is_grad_enabled())(x), X, Y, THREAT)


def test_a_function_may_set_the_mode_itself():
    fa.attacks.fgsm(functools.partial(lambda net, x: net.eval()(x), convnet()), X, Y, THREAT)


def test_a_module_that_stays_in_training_mode_by_itself_is_no_function():
    """Nor is it one with what it needs around it, such as copies of x."""
    net = around(darkens, lambda: nn.Sequential(nn.Dropout(0.5), nn.Flatten()))().train()
    net.eval = lambda: net
    plain = Plain(net)
    plain.verdict(X)
    assert plain.checked.copies
    assert plain.input_gradient(X, Y)[2].isfinite().all()
