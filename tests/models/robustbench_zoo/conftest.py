"""Small nets under names of the zoo, and their files in the zoo's layout."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from fastadv import models
from fastadv.models.zoo import BUFFERS, find, layout, zoo_name

TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is missing: pip install 'fastadv[zoo]'")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of weights and hashes, which does not exist yet."""
    monkeypatch.setenv("FASTADV_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small(monkeypatch):
    """small(name): the entry, as `robustbench` finds it from now on, of the least depth and width.

    It can be of another network, whose `features` the zoo calls `body`, or of these options.
    """

    def shrunk(name, net=None, **tiny):
        entry = find(name)
        if net:
            own = replace(entry.net, create=net, options={}, rename=(("^features", "body"),))
            entry = replace(entry, net=own)
        least = {"wide_resnet": {"depth": 10, "widen_factor": 1}, net: {}}.get(entry.net.create, {"width": 2})
        entry = replace(entry, net=replace(entry.net, options={**entry.net.options, **(tiny or least)}))
        monkeypatch.setattr("fastadv.models.zoo.find", lambda name: entry)
        return entry

    return shrunk


def bare(net):
    """A network of another package without the statistics of its own weights."""
    return net.model.model if isinstance(net, models.Normalized) else net


def net_of(entry, seed=1):
    """A net of that kind, its BatchNorms unlike fresh ones; without the entry's mean and deviation."""
    net = bare(models.create(entry.net.create, classes=entry.classes, seed=seed, **entry.net.options))
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5, generator=draw) if name.endswith(("weight", "var")) else tensor.normal_(
                0, 0.3, generator=draw
            )
    return net.eval()


def state_of(entry, net):
    """The state dict of a net as the zoo names it, with all that the zoo's file holds besides."""
    state = {zoo_name(entry.net, name): tensor for name, tensor in net.state_dict().items()}
    for name, shape in layout(entry, net.state_dict()).items():
        state.setdefault(name, torch.full(shape, 0.5) if name in BUFFERS else torch.ones(shape))
    return state
