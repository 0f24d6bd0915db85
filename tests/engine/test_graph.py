"""CUDA graphs: the buckets here, the capture where there is a GPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastadv.engine.search_twin as search_twin
from fastadv.engine import freeze
from fastadv.engine.graph import bucket


def test_buckets() -> None:
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 8, 9, 1000)] == [1, 2, 4, 4, 8, 8, 16, 1024]


class Captured:
    """Stands for a captured gradient: it replays what it computed first."""

    def __init__(self, gradient: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
        self.gradient = gradient
        self.made: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, *given: object) -> tuple[Tensor, Tensor, Tensor]:
        self.made = self.made or self.gradient(*given)
        return self.made


def test_what_was_captured_goes_with_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch has no finite logits, so it is not checked; the second replaces the twin."""
    monkeypatch.setattr(search_twin, "GraphedGradient", Captured)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).eval()
    frozen, x, y = freeze(model, "bf16"), torch.rand(3, 2, 8, 8), torch.arange(3)
    frozen.search.graphed = Captured(frozen.search.gradient)  # type: ignore[assignment]
    assert frozen.input_gradient(x * torch.nan, y)[1].isnan().all()
    assert frozen.input_gradient(x, y)[1].isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_replay_is_the_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).cuda()
    plain, graphed = freeze(model), freeze(model, cuda_graph=True)
    for size in (7, 8, 3, 7):
        x, y = torch.rand(size, 2, 8, 8, device="cuda"), torch.arange(size, device="cuda") % 5
        for expected, actual in zip(plain.input_gradient(x, y), graphed.input_gradient(x, y), strict=True):
            torch.testing.assert_close(actual, expected)
