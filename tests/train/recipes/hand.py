"""What the value tests do by hand: a net with BatchNorm in float64, and eager ascent in an L∞ ball."""

import copy

import torch

from fastadv import rng
from fastadv.train import Step
from tests.train.nets import images, net

RADIUS, STEPS, STEP_SIZE, SEED = 0.1, 3, 0.04, 3


def batch(n=9):
    data = images(n)
    return data.x.double(), data.y, torch.arange(n) + 5


def warm_net(seed=0):
    """In train mode, without dropout, with statistics that differ from those of any batch."""
    model = net(seed).double().train()
    model[4].p = 0.0
    with torch.no_grad():
        model[5].weight.mul_(4)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            model(torch.rand(8, 1, 8, 8, generator=generator).double() ** 2)
    return model


def evaluated(model):
    return copy.deepcopy(model).eval()


def ascend(model, x, loss, start, steps=STEPS, step_size=STEP_SIZE, radius=RADIUS):
    """Signed steps on loss(logits) [B] at the model in eval mode, clamped to ball and box."""
    model, x_adv = evaluated(model), start.clone()
    for _ in range(steps):
        leaf = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(leaf)).sum(), leaf)
        x_adv = x_adv + step_size * gradient.sign()
        x_adv = torch.minimum(torch.maximum(x_adv, x - radius), x + radius).clamp(0, 1)
    return x_adv.detach()


def near(x, ids):
    noise = rng.normal(x[0].numel(), rng.derive(SEED, "near start"), ids).double()
    return (x + 0.001 * noise.view_as(x)).clamp(0, 1)


def at_label(values, y):
    return values[torch.arange(len(y)), y]


def gradients(loss, model):
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))


def differ(one, other):
    return any(not torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(one, other, strict=True))


def assert_same_step(recipe, model, hand, wanted):
    """The recipe's loss, its gradient and the statistics it leaves are those computed at `hand`."""
    x, y, ids = batch()
    loss = recipe(model, x, y, ids=ids, seed=SEED)
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients(loss, model), gradients(wanted, hand), rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(dict(model.named_buffers()), dict(hand.named_buffers()))
    assert all(part.training for part in model.modules())


def step_at(model, n=9, *, rate=0.1, **options):
    """One batch, with plain gradient descent."""
    x, y, ids = batch(n)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    settings = {"seed": SEED, "epoch": 1, "check": lambda loss: None} | options
    return Step(model=model, optimizer=optimizer, x=x, y=y, ids=ids, **settings)
