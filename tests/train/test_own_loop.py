"""Recipes in a loop of one's own: fresh noise in each call, the examples alone, and the page on it."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import torch

import fastadv as fa
from fastadv import train
from tests.refusals import refuses

from .nets import net
from .test_recipes import LOSSES, batch, flat_net

PAGE = Path(__file__).parents[2] / "docs" / "own_loop.md"
BLOCKS = re.findall(r"```python ?(\w*)\n(.*?)```", PAGE.read_text(), re.S)
DRAWS = [name for name in LOSSES if name not in ("standard", "fgsm", "pgd-l2")]


@pytest.mark.parametrize("name", DRAWS)
def test_noise_is_fresh_in_each_call_and_follows_torchs_seed(name):
    (x, y, ids), model, recipe = batch(), flat_net(), LOSSES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first, second = recipe(model, x, y), recipe(model, x, y)
        torch.manual_seed(5)
        assert torch.equal(recipe(model, x, y), first)
    assert first != second
    assert torch.equal(recipe(model, x, y, ids=ids), recipe(model, x, y, ids=ids, seed=0))
    assert torch.equal(recipe(model, x, y, seed=3), recipe(model, x, y, ids=torch.arange(len(x)), seed=3))


def test_the_examples_alone():
    x, y, ids = batch()
    model, recipe = net().train(), LOSSES["pgd"]
    x_adv = train.craft(train.AWP(recipe), model, x, y, ids=ids, seed=3)
    assert torch.equal(x_adv, recipe.craft(model, x, y, ids=ids, seed=3))
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(train.craft(recipe, model, x, y), train.craft(recipe, model, x, y))
    assert model.training
    for other in (train.Standard(), train.FreeTraining(fa.Linf(0.1), 2)):
        refuses("recipe: expected one that crafts examples", train.craft, other, model, x, y)


@pytest.mark.slow
@pytest.mark.docs
def test_the_page_runs():
    """Plain PyTorch as it stands; each other framework where it is installed, and else its syntax."""
    names = {}
    importlib.import_module("fastadv._torchvision")  # which Lightning imports, too
    with torch.random.fork_rng(devices=[]):
        for package, code in BLOCKS:
            script = compile(code, str(PAGE), "exec")
            if not package or importlib.util.find_spec(package):
                exec(script, names)
    assert [package for package, _ in BLOCKS] == ["", "", "", "", "lightning", "accelerate"]
    loss, average = names["loss"], names["average"]
    assert isinstance(loss, torch.Tensor)
    assert loss.isfinite()
    assert average.n_averaged == len(names["loader"])
    assert all(weight.isfinite().all() for weight in average.parameters())


@pytest.mark.parametrize("name", ["pgd", "trades", "smoothadv"])
def test_examples_do_not_depend_on_autocast(name):
    x, y, _ = batch()
    model, examples = net().train(), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            examples.append(train.craft(LOSSES[name], model, x, y, seed=0))
    assert examples[1].dtype == torch.float32
    assert torch.equal(*examples)
