"""Published variants against their authors' code, draw by draw: both ask the model about the same points.

Skipped where foolbox is not installed, or hsja.py (github.com/Jianbo-Lab/HSJA) not in FASTADV_PEERS.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.attacks import boundary, hopskipjump
from fastadv.threat import L2, THREATS
from tests.attacks.nets import images, labels, mlp
from tests.attacks.watched import watched
from tests.parity import peers  # noqa: F401  which puts FASTADV_PEERS on the path

INF, ID = torch.inf, torch.zeros(1, dtype=torch.long)
SHAPE, SIZE = (1, 7, 9), 63


def problem() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A net, an image, its label, and another image with another one. With 64 pixels, rounding would decide
    about the last bisection of HopSkipJump.
    """
    net, x = mlp(inputs=SIZE), images(20, SHAPE, seed=2)
    y = labels(net, x)
    return net, x[:1], y[:1], x[y != y[0]][:1]


def drawn(kind: Any, name: str, *counters: int, count: int, draw: int = 0) -> Tensor:
    values: Tensor = kind(count, rng.derive(0, name, 0, *counters), ID, draw)
    return values.double()


def asked(batches: list[Tensor], skip: int) -> Tensor:
    return torch.cat(batches)[skip:].flatten(1)


def same(ours: Tensor, theirs: Tensor, least: int) -> None:
    """The same points, until ours is judged at last; both sum in float64, in another order."""
    assert least <= len(theirs) <= len(ours)
    torch.testing.assert_close(ours[: len(theirs)], theirs, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_boundary_as_in_foolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    foolbox, eagerpy = pytest.importorskip("foolbox"), pytest.importorskip("eagerpy")
    net, x, y, start = problem()
    steps = iter(range(1, 10_000))

    def normal(like: Any, shape: tuple[int, ...]) -> Any:
        return eagerpy.astensor(drawn(rng.normal, "boundary", count=SIZE, draw=next(steps)).view(shape))

    monkeypatch.setattr(eagerpy, "normal", normal)
    model, theirs = watched(net)
    wrapped = foolbox.PyTorchModel(Module(model), bounds=(0, 1), device="cpu")
    # sizes so large that the rates change them; those of the sphere from step 1,000 on
    sizes = {"spherical_step": 0.3, "source_step": 0.02}
    attack = foolbox.attacks.BoundaryAttack(steps=1300, **sizes)
    attack.run(wrapped, x, y, starting_points=start)
    model, ours = watched(net)
    boundary(model, x, y, L2(INF), queries=1431, starts=start, variant="published", **sizes)
    same(asked(ours, 2), asked(theirs, 1), 1430)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_hopskipjump_as_in_the_code_of_its_authors(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hsja = pytest.importorskip("hsja")
    net, x, y, start = problem()
    steps = iter(range(1, 10_000))

    def normal(*shape: int) -> Any:
        count = shape[0] * SIZE
        return drawn(rng.normal, "hopskipjump", next(steps), count=count).view(shape).numpy()

    def uniform(low: float, high: float, size: list[int]) -> Any:
        draw = drawn(rng.uniform, "hopskipjump", next(steps), count=size[0] * SIZE)
        return (low + (high - low) * draw).view(size).numpy()

    monkeypatch.setattr(hsja.np.random, "randn", normal)
    monkeypatch.setattr(hsja.np.random, "uniform", uniform)
    model, theirs = watched(net)

    class Predicts:
        def predict(self, points: Any) -> Any:
            points = torch.as_tensor(points).view(-1, *SHAPE)
            return model(points).detach().numpy()

    options = {"constraint": norm, "num_iterations": 8, "target_image": start[0].numpy(), "verbose": False}
    hsja.hsja(Predicts(), x[0].numpy(), **options)
    model, ours = watched(net)
    hopskipjump(model, x, y, THREATS[norm](INF), queries=3000, starts=start, variant="published")
    same(asked(ours, 2), asked(theirs, 1), 1600)


class Module(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.function(x)
        return logits
