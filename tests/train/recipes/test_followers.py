"""A run keeps the follower that it attacks, and makes another where that would be another."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.engine import Frozen, Plain
from fastadv.engine.cpu import winograd
from fastadv.train import Execution, FGSMTraining, PGDTraining, SmoothAdv, fit
from fastadv.train.recipes._followers import Followers, follower
from tests import recorded
from tests.train.nets import images
from tests.zoo.net import module

THREAT = fa.Linf(0.1)


def _same(x):
    return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.parts = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
            self.last = nn.Linear(144, 3)
        self.temperature = 1.0
        self.register_buffer("shift", torch.zeros(3))
        self.logits_of = _same

    def forward(self, x):
        return self.logits_of(self.last(self.parts(x).flatten(1))) * self.temperature + self.shift


def _hook(module, args, out):
    return out + 1


CHANGES = {
    "module": lambda net: setattr(net, "last", nn.Linear(144, 3)),
    "module within": lambda net: net.parts.append(nn.ReLU()),
    "hook": lambda net: net.last.register_forward_hook(_hook),
    "place of weights": lambda net: setattr(net.last.weight, "data", torch.ones(3, 144)),
    "layout": lambda net: net.to(memory_format=torch.channels_last),
    "buffer": lambda net: setattr(net, "shift", torch.ones(3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_another_follower(change):
    net, followers, x = Net(), Followers(), images().x[:2]
    with followers.in_use():
        first = follower(net)
        with torch.no_grad():
            for tensor in (*net.parameters(), *net.buffers()):
                tensor.add_(1)  # what is shared may change
        assert follower(net) is first
        CHANGES[change](net)
        second = follower(net)
        assert second is not first
        assert follower(net) is second
    assert torch.equal(second.verdict(x), Plain(net).verdict(x))


@pytest.mark.usefixtures("search_copy")
def test_a_follower_has_the_attributes_of_its_model():
    net, followers, x = Net(), Followers(), images().x[:2]
    with followers.in_use():
        first = follower(net)
        first(x)
        net.temperature, net.logits_of = 2.0, lambda x: x * 2
        assert follower(net) is first
    torch.testing.assert_close(first(x), Plain(net).verdict(x))


@dataclass
class Setting:
    value: object = 3


HELD = {
    "module": [nn.Linear(3, 3)],
    "parameter": {"a": nn.Parameter(torch.ones(3))},
    "object": object(),
    "setting": Setting([nn.Linear(3, 3)]),
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_a_model_whose_changes_cannot_be_seen_is_attacked_plainly(held):
    net, followers = Net(), Followers()
    net.others = held
    with followers.in_use():
        assert isinstance(follower(net), Plain)
        net.others = Setting(Setting())  # numbers in the end
        assert isinstance(follower(net), Frozen)


def test_a_run_searches_in_its_precision(monkeypatch):
    seen, of = set(), Followers.of

    def watched(self, model, *_):
        seen.add(self.precision)
        return of(self, model)

    monkeypatch.setattr(Followers, "of", watched)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    fit(net, images(), FGSMTraining(THREAT), epochs=1, execution=Execution(precision="bf16"))
    assert seen == {"bf16"}


class SharedBuffer(nn.Sequential):
    def __init__(self):
        shared = torch.ones(8, 1, 1)
        masks = [module(lambda self, x: x * self.mask, mask=shared) for _ in range(2)]
        wide, last = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(288, 3)
        super().__init__(nn.Conv2d(1, 8, 3), masks[0], nn.ELU(), wide, masks[1], nn.Flatten(), last)

    @torch.no_grad()
    def change(self, part):
        self[1].mask[0] = -3 if part == "buffer" else 1
        self[3].weight.mul_(-1 if part == "weight" else 1)


@pytest.mark.parametrize("part", ["buffer", "weight"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_kept_follower_has_the_gradient_of_its_model(precision, part, monkeypatch):
    for name, value in (("LEAST_CHANNELS", {torch.float32: 8, torch.bfloat16: 8}), ("LEAST_TILES", 0)):
        monkeypatch.setattr(winograd, name, value)  # whose transformed weights are kept
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x, y = SharedBuffer(), images().x[:32], torch.arange(32) % 3
    followers = Followers(precision)
    with followers.in_use():
        follower(net).input_gradient(x, y)
        net.change(part)
        gradient = follower(net).input_gradient(x, y)[2]
    right = Plain(net).input_gradient(x, y)[2]
    apart = (gradient - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
    # five layers of sums that round to 2 ** -8; a stale buffer gives another direction
    assert float(apart.max()) < (5 * 2**-8 * 4 if precision == "bf16" else 1e-4)


RECIPES = [PGDTraining(THREAT, steps=12), SmoothAdv(fa.L2(0.5), 0.25, noises=3, steps=12)]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=["pgd", "smooth"])
def test_steps_from_graphs_follow_the_weights(recipe, monkeypatch):
    captured = recorded.as_on_a_gpu(monkeypatch)
    net, draw = Net().double().eval(), torch.Generator().manual_seed(1)
    followers, plain = Followers(), Followers(cuda_graph=False)
    for batch, size in enumerate((8, 8, 8, 5, 8)):
        x = torch.rand(size, 1, 8, 8, generator=draw).double()
        examples = []
        for way in (followers, plain):
            with way.in_use():
                ids = torch.arange(size)
                examples.append(fa.train.craft(recipe, net, x, ids % 3, ids=ids, seed=batch))
        torch.testing.assert_close(*examples, rtol=0, atol=1e-12)
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    assert len(captured) == 2  # of eight rows, and of five
