"""Tiny stand-ins for the models, images and attacks of the study of Schott et al. 2018."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet
from papers.schott2018 import plan
from papers.schott2018.plan import Method
from papers.schott2018.subjects import Subject
from tests.models.abs.nets import images, tiny

PUSH = Method("Push", "l2", "push", {"share": 0.5}, dear={"share": 1.0})
FLIP = Method("Flip", "linf", "flip", {}, today=True)
JOLT = Method("Jolt", "l2", "jolt", {}, today=True)
DESCENT = Method("Latent descent", "l2", "latent_descent", {"steps": 5}, only=("binary_abs", "abs"))
METHODS = (PUSH, FLIP, JOLT, DESCENT)


def linear():
    """Logits whose gradient never vanishes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 64, generator=torch.Generator().manual_seed(5)))
        model[1].bias.zero_()
    return model


class FakeSubjects:
    """A linear CNN and a tiny ABS, plain and binary."""

    official, device = Path("nowhere"), torch.device("cpu")

    def __init__(self):
        net = tiny()
        self.made = {
            "cnn": Subject("cnn", linear()),
            "abs": Subject("abs", net, fast=True),
            "binary_abs": Subject("binary_abs", net.with_options(binary=True), fast=True),
        }
        self.checked: list[str] = []

    def check(self, names):
        self.checked = list(names)

    def __getitem__(self, name):
        return self.made[name]


def image_set(count=8):
    """Images that the tiny ABS explains."""
    x, y = images(tiny(), count)
    return ImageSet(x, y, 3, "fake")


def towards(x, y, share):
    """x, moved by a share of the way to the next image of another class."""
    other = torch.stack([x[(y != label).nonzero()[0, 0]] if (y != label).any() else x[0] for label in y])
    return x + share * (other - x)


class FakeAttacks:
    """Attacks that count their calls; each returns what `AttackResult` must have for the study."""

    def __init__(self):
        self.calls: list[tuple[str, tuple[int, ...]]] = []

    def installed(self, setattr):
        """Stand in `fa.attacks` and in the plan; `setattr` is that of monkeypatch, or Python's."""
        for name in ("push", "flip", "jolt"):
            setattr(fa.attacks, name, getattr(self, name))
        setattr(plan, "METHODS", METHODS)
        return self

    def _result(self, name, ids, x_adv):
        self.calls.append((name, tuple(ids.tolist())))
        return SimpleNamespace(x_adv=x_adv)

    def push(self, model, x, y, *, threat, share, ids, seed=0):
        return self._result("push", ids, towards(x, y, share))

    def flip(self, model, x, y, *, threat, ids):
        return self._result("flip", ids, 1 - x)

    def jolt(self, model, x, y, *, threat, ids, seed):
        return self._result("jolt", ids, towards(x, y, 0.8) if seed == 0 else x)
