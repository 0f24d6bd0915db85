"""An attack in a training loop of a model in training mode warns, in each form; no other call does."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.adapters import torchattacks
from tests.attacks.nets import seed_cpu

BALL = fa.Linf(0.1)
pgd = partial(fa.attacks.pgd, threat=BALL, steps=2)
FORMS = {
    "pgd": pgd,
    "apgd": partial(fa.attacks.apgd, threat=BALL, steps=2),
    "fgsm": partial(fa.attacks.fgsm, threat=BALL),
    "ids": lambda net, x, y: pgd(net, x, y, ids=torch.arange(len(x))),
    "frozen by itself": lambda net, x, y: pgd(net, x, y, steps=1024),
    "adapted": lambda net, x, y: pgd(fa.models.adapt(net, mean=0.5, std=0.5), x, y),
    "Sequential": lambda net, x, y: pgd(nn.Sequential(nn.Identity(), net), x, y),
    "DataParallel": lambda net, x, y: pgd(nn.DataParallel(net), x, y),
    "compiled": lambda net, x, y: pgd(torch.compile(net, backend="eager"), x, y),
    "partial": lambda net, x, y: pgd(partial(net), x, y),
    "method": lambda net, x, y: pgd(net.forward, x, y),
    "adapter": lambda net, x, y: torchattacks.APGD(net, eps=0.1, steps=2)(x, y),
}
OTHERS = {
    "craft": lambda net, x, y: fa.train.craft(fa.train.PGDTraining(BALL, steps=1), net, x, y),
    "recipe": fa.train.TRADES(BALL, steps=1),
    "evaluate": lambda net, x, y: fa.evaluate(net, (x, y), "fgsm", threat=BALL, indicators=False),
    "fit": lambda net, x, y: fa.train.fit(
        net, (x, y), "fgsm", threat=BALL, epochs=5, test_set=(x, y), test_attacks="fgsm"
    ),
    "adapter": lambda net, x, y: torchattacks.PGD(net, eps=0.1, steps=1)(x, y),
}  # fmt: skip


def train(net, x, y):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    net.train()
    optimizer.zero_grad()
    cross_entropy(net(x), y).backward()
    optimizer.step()


def warned(call, training, cleared, steps=6):
    """Return at which steps of a loop the call warns, and the warnings."""
    seed_cpu(0)
    net, x, y = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), torch.rand(4, 1, 3, 3), torch.arange(4) % 3
    at = list[int]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(steps):
            net.train(training)
            if cleared:
                net.zero_grad()
            call(net, x, y)
            at += [step] * (len(caught) - len(at))
            train(net, x, y)
    return at, caught


def marked(*names):
    """Return the names for a parametrization, slow where the call builds a copy or trains."""
    slow = "frozen by itself", "fit"
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


@pytest.mark.parametrize("form", marked(*FORMS))
def test_each_form_of_the_loop_warns_once_at_the_users_line(form):
    at, caught = warned(FORMS[form], training=True, cleared=False)
    assert at == [1]
    assert (caught[0].category, caught[0].filename) == (UserWarning, __file__)
    assert {"fa.train.craft(recipe,", "model.eval()"} <= {*str(caught[0].message).split()}


def test_a_lazy_module_is_refused_as_before():
    with pytest.raises(fa.InputError, match="lazy"):
        pgd(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), torch.rand(2, 1, 3, 3), torch.arange(2))


@pytest.mark.parametrize("name", marked(*OTHERS))
def test_other_calls_do_not_warn(name):
    assert warned(OTHERS[name], training=True, cleared=False)[0] == []


@pytest.mark.parametrize(("training", "cleared"), [(False, False), (True, True)])
def test_nor_do_models_in_eval_mode_or_without_gradients(training, cleared):
    assert warned(pgd, training, cleared)[0] == []
