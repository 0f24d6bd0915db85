"""A run attacks each model as it is at a batch, whatever was changed since the batch before."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.engine import Plain, winograd
from fastadv.train import Aligned, Execution, PGDTraining, SmoothAdv, fit
from fastadv.train.recipes._followers import Followers, follower
from tests import recorded
from tests.train.nets import images, noting
from tests.train.test_aligned import TwoTowers, encoder
from tests.zoo.net import module


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, wide = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.parts = nn.Sequential(first, nn.BatchNorm2d(8), nn.ELU(), wide, nn.Dropout(0.2))
            self.last = nn.Linear(288, 3)
        self.temperature, self.others = 1.0, []
        self.register_buffer("shift", torch.zeros(3))

    def forward(self, x):
        logits = self.last(self.parts(x).flatten(1)) * self.temperature + self.shift
        for other in self.others:
            logits = other(logits)
        return logits


def _hook(module, args, out):
    return out * 2


class Factor:
    def __init__(self):
        self.weight = torch.tensor([1.0, 2.0, 3.0])

    def __call__(self, logits):
        return logits * self.weight


def _hidden(net):
    for other in net.others:
        other.weight.mul_(-3)


CHANGES = {
    "nothing": lambda net: None,
    "module": lambda net: setattr(net, "last", nn.Linear(288, 3)),
    "module within": lambda net: net.parts.append(nn.ReLU()),
    "hook": lambda net: net.last.register_forward_hook(_hook),
    "place of weights": lambda net: setattr(net.last.weight, "data", torch.eye(3).repeat(1, 96)),
    "layout": lambda net: net.to(memory_format=torch.channels_last),
    "buffer": lambda net: setattr(net, "shift", torch.tensor([3.0, 0.0, -3.0])),
    "values of a buffer": lambda net: net.shift.copy_(torch.tensor([3.0, 0.0, -3.0])),
    "number": lambda net: setattr(net, "temperature", 2.0),
    "module in a list": _hidden,
    "object": _hidden,
}
HELD = {"module in a list": nn.Linear(3, 3), "object": Factor()}  # whose changes cannot be seen


@pytest.mark.usefixtures("search_copy")
@pytest.mark.parametrize("change", CHANGES)
def test_examples_are_those_of_the_model_as_it_is(change, monkeypatch):
    for name, value in (("LEAST_CHANNELS", {torch.float32: 8}), ("LEAST_TILES", 0)):
        monkeypatch.setattr(winograd, name, value)  # whose transformed weights are kept
    batches = []

    class Noted(PGDTraining):
        def objective(self, model, x, y, x_adv):
            batches.append((deepcopy(model), x, y, x_adv))
            return super().objective(model, x, y, x_adv)

    @torch.no_grad()
    def between(done, total):
        if done in (1, 2):
            CHANGES[change](net)

    net, recipe = Net(), Noted(fa.L2(0.5), steps=3, random_start=False)
    net.others = [HELD[change]] if change in HELD else []
    fit(net, images(64), recipe, epochs=1, batch_size=16, learning_rate=0.02, progress=between)
    assert len(batches) == 4
    for model, x, y, x_adv in batches:
        alone = fa.train.craft(recipe, model, x, y, seed=0)  # outside of a run: plainly
        torch.testing.assert_close(x_adv, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        (PGDTraining(fa.L2(0.5)), lambda last: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), last)),
        (Aligned(fa.L2(0.5)), lambda last: TwoTowers(nn.Sequential(*encoder(), last))),
        (Aligned(fa.L2(0.5), "texts"), lambda last: TwoTowers(nn.Sequential(*encoder(), last))),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_searches_and_learns_in_its_precision(precision, recipe, model):
    met = set()
    fit(model(noting(met)), images(24), recipe, epochs=1, execution=Execution(precision=precision))
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert {dtype for training, dtype in met if training} == {wanted}
    assert (False, wanted) in met


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


@pytest.mark.slow
def test_steps_from_graphs_follow_the_weights(monkeypatch):
    captured = recorded.as_on_a_gpu(monkeypatch)
    net, draw = Net().double().eval(), torch.Generator().manual_seed(1)
    recipe = SmoothAdv(fa.L2(0.5), 0.25, noises=3, steps=12)
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
