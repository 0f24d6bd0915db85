"""The contract of rewrites: a copy is the model over nets, precisions, layouts, threads and batches."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine import freeze, winograd
from fastadv.engine.rewrites import REWRITES
from tests.engine.nets import answers
from tests.zoo.net import module

pytestmark = pytest.mark.usefixtures("small_ones_too")


def images() -> nn.Module:
    """Gray images: a thin layer, BatchNorm, kernels of 3 by 3, what follows in place, a view, products."""
    return module(
        lambda self, x: self.fc(F.elu(self.wide(self.body(x).view(len(x), -1)))),
        body=nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ELU(inplace=True),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.Tanh(),
            nn.Conv2d(32, 16, 3), nn.ELU(), nn.AvgPool2d(2),
        ),
        wide=nn.Linear(576, 64), fc=nn.Linear(64, 5),
    )  # fmt: skip


def residual() -> nn.Module:
    """Colors: a block that is added, a stride, groups, a kernel of 1 by 1, one that is transposed."""

    def forward(self: Any, x: Tensor) -> Tensor:
        h = F.silu(self.norm(self.stem(x)))
        h = h + F.silu(self.inner(self.block(h)))
        return self.fc(F.silu(self.up(self.grouped(h))).mean((2, 3)))

    return module(
        forward, stem=nn.Conv2d(3, 32, 5, stride=2, padding=2), norm=nn.BatchNorm2d(32),
        block=nn.Conv2d(32, 32, 3, padding=1), inner=nn.BatchNorm2d(32, affine=False),
        grouped=nn.Sequential(nn.Conv2d(32, 32, 3, groups=4, dilation=2), nn.Conv2d(32, 16, 1)),
        up=nn.ConvTranspose2d(16, 16, 2), fc=nn.Linear(16, 5),
    )  # fmt: skip


def attention() -> nn.Module:
    """Normalized pixels that attend to each other, whose gradient for one image torch mixes up."""

    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x)).flatten(2).transpose(1, 2)
        return self.fc((self.query(h) @ h.transpose(1, 2)).softmax(2) @ h).mean(1)

    parts = {"stem": nn.Conv2d(3, 8, 3), "norm": nn.InstanceNorm2d(8, affine=True)}
    return module(forward, **parts, query=nn.Linear(8, 8), fc=nn.Linear(8, 5))


def vectors() -> nn.Module:
    return nn.Sequential(
        nn.Linear(48, 64), nn.BatchNorm1d(64), nn.SiLU(), nn.Linear(64, 64), nn.Linear(64, 5)
    )


def series() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 16, 3), nn.BatchNorm1d(16), nn.SiLU(), nn.Flatten(), nn.Linear(224, 5))


def thin() -> nn.Module:
    """One channel, by kernels that are not square, with a stride and spread out."""
    return nn.Sequential(
        nn.Conv2d(1, 24, (3, 5), stride=(1, 3), padding=(1, 2), bias=False), nn.Tanh(), nn.Conv2d(24, 1, 1),
        nn.Conv2d(1, 24, (3, 5), dilation=2, padding=4), nn.Tanh(), nn.Conv2d(24, 1, 1),
        nn.Conv2d(1, 8, 3, padding="same"), nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip


def wide() -> nn.Module:
    """Kernels of 3 by 3 with each padding, weights that hooks compute, and layers that only look alike."""
    left = (
        {"dilation": 2}, {"groups": 2}, {"padding": 3}, {"padding": (1, 0)}, {"padding": "same"},
        {"stride": 2},  # what follows is small, and left anyway
    )  # fmt: skip
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=padding) for channels, padding in ((3, 0), (16, 1), (16, 2))),
        nn.Tanh(), nn.utils.spectral_norm(nn.Conv2d(16, 16, 3)), nn.Conv2d(16, 16, 3, bias=False), nn.Tanh(),
        *(nn.Conv2d(16, 16, 3, **options) for options in left), nn.Tanh(), nn.Conv2d(16, 16, (3, 1)),
        nn.ConvTranspose2d(16, 16, 3), nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip


def moving() -> nn.Module:
    """A net that takes a step along a gradient of its own, so that attacks follow a second derivative."""

    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            (step,) = torch.autograd.grad(self.net(leaf).logsumexp(1).sum(), leaf, create_graph=True)
        return self.net(x + step)

    layers = nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh()
    return module(forward, net=nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5)))


NETS: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    images: (1, 14, 15), residual: (3, 20, 20), attention: (3, 8, 8), thin: (1, 12, 13),
    wide: (3, 20, 20), moving: (1, 8, 8), vectors: (48,),
    series: (3, 16),
}  # fmt: skip


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def same(model: nn.Module, precision: str, shape: tuple[int, ...], most: float) -> tuple[str, ...]:
    """Compare logits and gradients with the model's in float64, at each size and in each layout."""
    x, y = torch.rand(33, *shape, dtype=torch.float64), torch.arange(33) % 5
    model(x.float())  # for its statistics, and what is lazy
    logits, gradient = answers(model.double().eval(), x, y)
    if precision != "double":
        x, model = x.float(), model.float()
    frozen = freeze(model, "fp32" if precision == "double" else precision)  # type: ignore[arg-type]
    for batch in (x, x.contiguous(memory_format=torch.channels_last)) if len(shape) == 3 else (x,):
        for count in (1, 7, 33):
            _, by_gradient, searched = frozen.input_gradient(batch[:count], y[:count])
            for scores in (by_gradient, frozen(batch[:count])):
                assert (scores - logits[:count]).norm() < most * logits[:count].norm()
            apart, length = (rows.flatten(1).norm(dim=1) for rows in (searched - gradient[:count], gradient))
            assert (apart < 3 * most * length[:count]).all()
    assert not any("fell back" in note for note in frozen.notes)  # a copy that fails answers rightly, too
    return frozen.notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "most", "count"),
    [("fp32", 1e-4, 1), ("fp32", 1e-4, 2), ("bf16", 0.05, 1), ("double", 1e-10, 1)],
)
def test_a_search_copy_is_the_model(precision, most, count, threads, monkeypatch):
    threads(count)
    used = set[str]()
    # the comparison would hide what is wrong
    monkeypatch.setattr("fastadv.engine.frozen.compare", lambda *args: None)
    torch.manual_seed(0)
    for make, shape in NETS.items():
        notes = same(make(), precision, shape, most)
        used |= {rewrite.name for rewrite in REWRITES if rewrite.note in notes}
        used |= {"fold" for note in notes if note.startswith("folded") and note != "folded 0 BatchNorm"}
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision)
    served = {"winograd": winograd.available(dtype)}
    assert used == {rewrite.name for rewrite in REWRITES if served.get(rewrite.name, True)}


@pytest.mark.skipif(
    not winograd.available(torch.float32), reason="torch has no oneDNN, or no extension is built"
)
@pytest.mark.parametrize("bytes", [1, 1 << 24])
def test_wide_products_go_in_parts(bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LARGEST", 36 * 3 * 4 * 5), ("BLOCK", 2), ("BYTES", bytes)):
        monkeypatch.setattr(winograd, name, value)
    monkeypatch.setattr("fastadv.engine.frozen.compare", lambda *args: None)
    torch.manual_seed(0)
    same(
        nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(480, 5)),
        "fp32",
        (8, 8, 5),
        1e-4,
    )
