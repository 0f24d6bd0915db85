"""Models whose steps are replayed, without a GPU."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.core import problem, ranking, samples, search, waiting
from fastadv.attacks.methods import auto_pgd
from fastadv.engine.graph import Graphs
from fastadv.ops import _graphs
from tests import recorded

SIZE = 13
READERS = "fastadv.attacks.ddn", "fastadv.attacks.fmn", "fastadv.attacks.last_iterate"


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are not read where that would wait for a GPU, and graphs are recorded calls."""
    leaves = waiting.may_leave
    on_a_gpu = {
        "waits": lambda device: True,
        "surely_finite": lambda values: False,
        "may_leave": lambda evaluation, device: leaves(evaluation, torch.device("cuda")),
    }
    for module in (waiting, ranking, problem, samples, search, auto_pgd, *map(sys.modules.get, READERS)):
        for name in on_a_gpu.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, on_a_gpu[name])
    monkeypatch.setattr(_graphs, "capture", recorded.capture)
    # what is captured takes the first gradient, too
    monkeypatch.setattr(fa.Frozen, "clean_pass", lambda self, x: None)


def net(seed: int = 0) -> nn.Module:
    """In float64: the last bits of sums, which a padded batch may change, do not reach points in float32."""
    torch.manual_seed(seed)
    parts = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    return nn.Sequential(*parts).double().eval()


def batch(model: nn.Module, seed: int = 1, size: int = SIZE) -> tuple[Tensor, Tensor]:
    x = torch.rand(size, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return x, model(x.double()).argmax(1)


def graphed(model: nn.Module, precision: Any = "fp32") -> fa.Frozen:
    frozen = fa.freeze(model, precision)
    frozen.search.graphs = Graphs()
    return frozen


def kinds(frozen: fa.Frozen) -> set[str]:
    names = [key[0][0] for key in frozen.search.graphs._kept._made]  # type: ignore[union-attr,index]
    return {name if isinstance(name, str) else getattr(name[0], "__name__", name[0]) for name in names}


def same(found: Any, wanted: Any) -> None:
    assert torch.equal(found.x_adv, wanted.x_adv)
    assert torch.equal(found.status, wanted.status)
    assert (found.forwards, found.backwards) == (wanted.forwards, wanted.backwards)
