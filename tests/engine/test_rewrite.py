"""Functions are rewritten inside their pass and thread alone, and where a way suits."""

import pytest
import torch
from torch import nn

from fastadv.engine import rewrites
from fastadv.engine.cpu import winograd
from fastadv.engine.cpu.winograd import WINOGRAD
from fastadv.engine.rewrite import Rewrite
from fastadv.engine.rewrites import REWRITES, THIN, VIEWS, applicable
from tests.engine.rewritten import Seen
from tests.engine.test_rewrites import images


def named(value: object) -> str:
    """Return the name of a rewrite, or what the test is given, without addresses."""
    return value.name if isinstance(value, Rewrite) else str(value)


pytestmark = [
    pytest.mark.usefixtures("small_ones_too"),
    pytest.mark.skipif(
        not winograd.available(torch.float32), reason="torch was built without oneDNN, or fastadv unbuilt"
    ),
]


LEFT: list[tuple[Rewrite, nn.Module, tuple[int, ...]]] = [
    *((THIN, layer, (layer.in_channels, 6, 6)) for layer in (
        nn.Conv2d(8, 64, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(2, 32, 3, groups=2),
        nn.Conv2d(1, 32, 3, padding="same"), nn.ConvTranspose2d(1, 32, 3),
    )),
    (THIN, nn.Conv1d(1, 32, 3), (1, 6)),
    *((WINOGRAD, layer, (8, 10, 10)) for layer in (
        nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3, dilation=2), nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, padding=3), nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, (3, 1)),
        nn.Conv2d(8, 8, 3, padding=(1, 0)), nn.Conv2d(8, 8, 5), nn.ConvTranspose2d(8, 8, 3),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("rewrite", "layer", "shape"), LEFT, ids=named)
def test_layers_that_are_left_to_the_library(rewrite, layer, shape):
    seen, x = Seen(layer.requires_grad_(False), rewrite), torch.rand(2, *shape)
    x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    assert torch.equal(seen(x.requires_grad_()), layer(x))
    assert seen.used == set()


TWICE: list[tuple[Rewrite, nn.Module, tuple[int, ...]]] = [
    (WINOGRAD, nn.Conv2d(8, 8, 3, padding=1), (8, 8, 8)),
    (THIN, nn.Conv2d(1, 8, 3, padding=1, stride=2), (1, 6, 6)),
]


@pytest.mark.parametrize(("rewrite", "layer", "shape"), TWICE, ids=named)
def test_derivatives_of_derivatives(rewrite, layer, shape):
    seen, second = Seen(layer.requires_grad_(False), rewrite), []
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    for run in (seen, layer):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(run(leaf * 1).exp().sum(), leaf, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    assert seen.used == {rewrite.name}
    torch.testing.assert_close(*second, rtol=1e-3, atol=1e-3)


def test_autocast_around_is_the_librarys() -> None:
    model, x = images().eval().requires_grad_(False), torch.rand(4, 1, 14, 15)
    watched = Seen(model, WINOGRAD, THIN)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(watched(x.clone().requires_grad_()), model(x))
    assert watched.used == set()


def test_each_says_for_which_model_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(model: nn.Module, dtype: torch.dtype = torch.float32) -> list[str]:
        return [rewrite.name for rewrite in applicable(model, dtype)]

    assert names(images().eval()) == [rewrite.name for rewrite in REWRITES]
    assert names(nn.Sequential(nn.Flatten(), nn.Linear(64, 4))) == []
    assert names(images().eval().to("meta")) == ["fold"]
    wide = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32)).to("meta").eval()
    assert names(wide, torch.bfloat16) == ["fold", "views", "channels-last"]
    assert names(wide) == ["fold"]
    monkeypatch.setattr(rewrites, "rounds_as", lambda format, device: "tf32")
    assert names(wide) == ["fold", "views", "channels-last"]


@pytest.mark.parametrize("shape", [(2, -1), ((2, -1),), (torch.Size((2, 60)),), (4, 30), (2, 3, 20)], ids=str)
def test_any_layout_has_a_view(shape: tuple[object, ...]) -> None:
    seen = Seen(lambda x: x.view(*shape), VIEWS)
    plain = torch.randn(2, 3, 4, 5)
    for x in (plain, plain.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(seen(x), plain.view(*shape))
    assert seen.used == {"views"}
    assert seen(plain).data_ptr() == plain.data_ptr()
    assert seen.used == set()
