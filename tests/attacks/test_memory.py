"""How much attacks hold at once: candidates of few samples at a time, with the same points."""

import weakref
from functools import partial
from math import inf
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fastadv as fa
from fastadv.attacks.core import search

from .nets import labeled

pytestmark = pytest.mark.slow
A, MOST = fa.attacks, 30
ATTACKS: dict[str, Any] = {
    "nes": partial(A.nes, threat=fa.Linf(0.03), queries=102),
    "boundary": partial(A.boundary, threat=fa.L2(inf), queries=100),
    "hopskipjump": partial(A.hopskipjump, threat=fa.L2(inf), queries=230),
    "hopskipjump published": partial(A.hopskipjump, threat=fa.L2(inf), queries=230, variant="published"),
    "gaussian_noise": partial(A.gaussian_noise, threat=fa.L2(inf), levels=2),
    "salt_and_pepper": partial(A.salt_and_pepper, threat=fa.L0(inf), levels=2),
    "square": partial(A.square, threat=fa.Linf(0.03), queries=5),
    "sparse_rs": partial(A.sparse_rs, threat=fa.L0(20), queries=5),
    "pointwise": partial(A.pointwise, threat=fa.L0(inf), queries=60),
    "apgd": partial(A.apgd, threat=fa.Linf(0.03), steps=3),
}


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operators return, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            storage = leaf.untyped_storage() if isinstance(leaf, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.held:
                self.held[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.held.pop, storage._cdata)
        self.most = max(self.most, sum(self.held.values()))
        return out


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_holds_few_times_the_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.default_generator.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    model, x, y = labeled(model, torch.rand(16, 3, 64, 64))
    with Live() as live:
        out = ATTACKS[name](model, x, y)
    assert x.nbytes < live.most <= MOST * x.nbytes
    monkeypatch.setattr(search, "LEAST", 1 << 40)
    assert torch.equal(out.x_adv, ATTACKS[name](model, x, y).x_adv)
