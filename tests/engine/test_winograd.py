"""A search twin's wide convolutions by Winograd's method are those of the model."""

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import onednn, winograd
from fastadv.engine.winograd import Kernels, WinogradConv2d, by_winograd

pytestmark = pytest.mark.skipif(
    not winograd.available(), reason="torch was built without oneDNN, or fastadv without its extension"
)


@pytest.fixture
def _narrow_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", {torch.float32: 1, torch.bfloat16: 1})
    monkeypatch.setattr(winograd, "LEAST_TILES", 0)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what was convolved so."""
    made: list[tuple[int, ...]] = []
    real = winograd.convolve

    def convolve(x: Tensor, *rest: Any) -> Tensor:
        made.append(tuple(x.shape))
        return real(x, *rest)

    monkeypatch.setattr(winograd, "convolve", convolve)
    return made


class Net(nn.Module):
    """Convolutions of all paddings, one of them without a bias, with what follows them in place."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, width, 3, padding=2, bias=False), nn.BatchNorm2d(width)
        self.second, self.third = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 5, 3)
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)), inplace=True)
        x = F.relu_(self.second(x)) + x
        logits: Tensor = self.linear(self.third(x).mean((2, 3)))
        return logits


class Doubled(nn.Conv2d):
    """A layer with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def answers(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), y, reduction="sum"), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize(("precision", "loose"), [("fp32", 1e-4), ("bf16", 0.03)])
@pytest.mark.parametrize("bytes", [1, 1 << 24])
@pytest.mark.usefixtures("_narrow_ones_too")
def test_the_search_is_that_of_the_model(
    precision: Any, loose: float, bytes: int, passes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "BYTES", bytes)
    monkeypatch.setattr(winograd, "PACKED", min(bytes, 64))  # 1: image by image
    model = Net().eval()
    x, y = torch.rand(5, 3, 12, 8), torch.arange(5) % 4
    frozen = fa.freeze(model, precision)
    logits, gradient = answers(copy.deepcopy(model).double(), x.double(), y)
    assert (frozen(x) - logits).norm() < loose * logits.norm()
    passes.clear()
    found = frozen.input_gradient(x, y)[2]
    monkeypatch.setattr(winograd, "MOST_BYTES", 0)
    plain = fa.freeze(model, precision).input_gradient(x, y)[2]
    # in bfloat16 an activation next to 0 may take the other side
    assert (found - gradient).norm() < 1e-4 * gradient.norm() + 2.5 * (plain - gradient).norm()
    assert not torch.equal(found, plain)
    # three layers forwards, and backwards
    assert len(passes) == 6
    assert "3 convolutions by Winograd's method" in frozen.notes
    assert not any("fell back" in note for note in frozen.notes)
    rows = frozen.jacobian(x, torch.eye(4).expand(5, 4, 4))[1]
    leaf = x.double().requires_grad_()
    (first,) = torch.autograd.grad(copy.deepcopy(model).double()(leaf)[:, 0].sum(), leaf)
    assert (rows[:, 0] - first).norm() < 5 * loose * first.norm()
    assert type(model.second) is nn.Conv2d


@pytest.mark.usefixtures("_narrow_ones_too")
def test_the_verdict_is_to_the_bit(passes: list[tuple[int, ...]]) -> None:
    model, x = Net().eval(), torch.rand(5, 3, 12, 8)
    frozen = fa.freeze(model)
    assert torch.equal(frozen.verdict(x), model(x).detach())
    fa.freeze(model, fold=False).input_gradient(x, torch.zeros(5, dtype=torch.long))
    assert passes == []


@pytest.mark.usefixtures("_narrow_ones_too")
def test_images_go_as_many_at_once_as_fill_the_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = winograd.winograd_tiles

    def tiles(images: Tensor, size: int, padding: int) -> Tensor:
        sizes.append(len(images))
        return real(images, size, padding)

    monkeypatch.setattr(winograd, "winograd_tiles", tiles)
    layer = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    by_winograd(layer, torch.float32)
    x = torch.rand(40, 4, 8, 8).contiguous(memory_format=torch.channels_last)  # 4 tiles each
    expected = layer(x)
    monkeypatch.setattr(winograd, "BYTES", 1)
    torch.testing.assert_close(layer(x), expected)
    assert sizes == [40, 14, 13, 13]


@pytest.mark.usefixtures("_narrow_ones_too")
def test_changed_weights_are_followed(passes: list[tuple[int, ...]]) -> None:
    layer = nn.Conv2d(3, 6, 3, padding=1).requires_grad_(False)
    by_winograd(layer, torch.float32)
    x = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for factor in (1.0, -2.0):
        layer.weight.mul_(factor)
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        torch.testing.assert_close(
            out, F.conv2d(x, layer.weight, layer.bias, padding=1), rtol=1e-4, atol=1e-5
        )
        (found,) = torch.autograd.grad(out.sum(), leaf)
        (expected,) = torch.autograd.grad(F.conv2d(leaf, layer.weight, padding=1).sum(), leaf)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(passes) == 4


@pytest.mark.usefixtures("_narrow_ones_too")
def test_weights_that_change_before_the_gradient_are_an_error() -> None:
    layer = nn.Conv2d(3, 6, 3, padding=1).requires_grad_(False)
    by_winograd(layer, torch.float32)
    leaf = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = layer(leaf)
    layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("bytes", [1, 1 << 24])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("_narrow_ones_too")
def test_outputs_in_parts(bytes: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "LARGEST", 36 * 3 * 4 * 5)  # 5 outputs forwards, 2 backwards
    monkeypatch.setattr(winograd, "BLOCK", 2)
    monkeypatch.setattr(winograd, "BYTES", bytes)
    layer = nn.Conv2d(3, 7, 3, padding=1, bias=bias).requires_grad_(False)
    plain = copy.deepcopy(layer)
    assert by_winograd(layer, torch.float32) == 1
    assert isinstance(layer, WinogradConv2d)
    assert [part.outputs for part in layer.kernels()] == [4, 3]
    assert [part.outputs for part in layer.kernels(backwards=True)] == [2, 1]
    x, direction = torch.rand(40, 3, 8, 5), torch.randn(40, 7, 8, 5)
    found = []
    for each in (layer, plain):
        leaf = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        out = each(leaf)
        assert out.is_contiguous(memory_format=torch.channels_last)
        found.append((out, *torch.autograd.grad(out, leaf, direction)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_narrow_ones_too")
def test_only_the_directions_that_are_passed_are_transformed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = winograd.winograd_kernels

    def kernels(weight: Tensor, size: int) -> Tensor:
        made.append(tuple(weight.shape[:2]))
        return real(weight, size)

    monkeypatch.setattr(winograd, "winograd_kernels", kernels)
    frozen = fa.freeze(Net().eval())
    x, y = torch.rand(5, 3, 12, 8), torch.arange(5) % 4
    for _ in range(2):
        frozen(x)
        assert made == [(6, 3), (6, 6), (5, 6)]
    for _ in range(2):
        frozen.input_gradient(x, y)
        assert made == [(6, 3), (6, 6), (5, 6), (6, 5), (6, 6), (3, 6)]


@pytest.mark.usefixtures("_narrow_ones_too", "uncollected")
def test_transformed_weights_go_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = Kernels.of

    def of(weight: Tensor) -> tuple[Kernels, ...]:
        kernels = real(weight)
        made.extend(weakref.ref(each) for each in kernels)
        return kernels

    monkeypatch.setattr(Kernels, "of", of)
    x, y = torch.rand(5, 3, 12, 8), torch.arange(5) % 4
    fa.attacks.pgd(Net().eval(), x, y, fa.Linf(0.1), steps=2, step_size=0.1)
    assert len(made) == 6
    assert not any(each() for each in made)


@pytest.mark.usefixtures("_narrow_ones_too")
def test_other_weights_at_the_same_address() -> None:
    layer = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    by_winograd(layer, torch.float32)
    x = torch.rand(1, 64, 4, 4).contiguous(memory_format=torch.channels_last)
    for _ in range(8):
        drawn = torch.randn(64, 64, 3, 3)
        layer.weight.data = torch.empty(0)
        layer.weight.data = drawn.clone()
        torch.testing.assert_close(layer(x), F.conv2d(x, drawn, layer.bias, padding=1), rtol=1e-3, atol=1e-3)
        del drawn


def test_bfloat16_is_left_to_the_library_where_onednn_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: False)
    assert by_winograd(nn.Conv2d(256, 256, 3), torch.bfloat16) == 0
    assert by_winograd(nn.Conv2d(256, 256, 3), torch.float32) == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.usefixtures("_narrow_ones_too")
def test_weights_that_a_hook_computes_are_left_to_the_library() -> None:
    normalized = nn.utils.weight_norm(nn.Conv2d(4, 4, 3)), nn.utils.spectral_norm(nn.Conv2d(4, 4, 3))
    assert by_winograd(nn.Sequential(*normalized), torch.float32) == 0


@pytest.mark.parametrize("count", [1, 15, 16])
def test_an_image_of_the_size_of_a_kernel_keeps_its_padding(count: int) -> None:
    """Few such images are left to the library, which must not take them for covered without padding."""
    layers = nn.Conv2d(3, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1), nn.Flatten(2)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    frozen, x = fa.freeze(model), torch.rand(16, 3, 3, 3)
    assert "1 convolutions by Winograd's method" in frozen.notes
    frozen(x)
    assert not any("fell back" in note for note in frozen.notes)
    torch.testing.assert_close(frozen(x[:count]), model(x[:count]).detach(), rtol=1e-4, atol=1e-5)
    logits = model.double()(leaf := x[:count].double().requires_grad_())
    y = torch.zeros(count, dtype=torch.long)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), leaf)
    assert (frozen.input_gradient(x[:count], y)[2] - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.usefixtures("_narrow_ones_too")
def test_a_copy_makes_its_own(passes: list[tuple[int, ...]]) -> None:
    model, x = Net().eval(), torch.rand(5, 3, 12, 8)
    frozen = fa.freeze(model)
    expected = frozen(x)
    passes.clear()
    torch.testing.assert_close(copy.deepcopy(frozen)(x), expected)
    assert len(passes) == 3


@pytest.mark.usefixtures("_narrow_ones_too")
def test_derivatives_of_derivatives() -> None:
    torch.manual_seed(0)
    own = nn.Conv2d(3, 6, 3, padding=1).requires_grad_(False).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(own)
    assert by_winograd(own, torch.float32) == 1
    x = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    found = []
    for layer in (own, plain):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(leaf).exp().sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("_narrow_ones_too")
def test_what_is_left_to_the_library(passes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [
        nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding=3), nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, (3, 1)),
        nn.Conv2d(4, 4, 3, padding=(1, 0)), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 5), nn.ConvTranspose2d(4, 4, 3), Doubled(4, 4, 3),
    ]  # fmt: skip
    assert by_winograd(nn.Sequential(*kept), torch.float32) == 0
    for dtype in (torch.float64, torch.float16, None):
        assert by_winograd(nn.Sequential(nn.Conv2d(4, 4, 3)), dtype) == 0

    layer = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    plain = copy.deepcopy(layer)
    assert by_winograd(layer, torch.float32) == 1
    last = torch.rand(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    fifth = last[:, :, :5, :5].contiguous(memory_format=torch.channels_last)  # a pixel that wastes a tile
    for x in (torch.rand(2, 4, 8, 8), fifth, torch.rand(4, 8, 8)):
        assert torch.equal(layer(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(last).dtype == torch.bfloat16
    with pytest.raises(RuntimeError):
        layer(last[:, :3].contiguous(memory_format=torch.channels_last))
    for dtype in (torch.float64, torch.bfloat16):
        layer.to(dtype)(last.to(dtype))
    layer.float()
    monkeypatch.setattr(winograd, "LEAST_TILES", 9)
    layer(last)
    assert passes == []
    monkeypatch.setattr(winograd, "LEAST_TILES", 8)
    layer(last)
    assert passes == [(2, 4, 8, 8)]
    assert layer.bias is not None
    layer.bias.requires_grad_()
    layer(last).sum().backward()
    assert layer.bias.grad is not None
    learned = layer.requires_grad_()
    learned(last).sum().backward()
    assert learned.weight.grad is not None
    assert len(passes) == 1


def test_narrow_layers_and_large_memory_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(width: int, dtype: torch.dtype) -> list[bool]:
        layers = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        by_winograd(nn.Sequential(*layers), dtype)
        return [type(layer) is WinogradConv2d for layer in layers]

    assert made(95, torch.float32) == [False] * 3
    assert made(96, torch.float32) == [True] * 3
    assert made(255, torch.bfloat16) == [False] * 3
    assert made(256, torch.bfloat16) == [True] * 3
    monkeypatch.setattr(winograd, "MOST_BYTES", 2 * 2 * 36 * 128 * 128 * 4)
    assert made(128, torch.float32) == [True, True, False]


def test_a_wide_model_by_its_notes() -> None:
    model = fa.models.create("small_cnn", shape=(3, 32, 32), width=32).eval()
    assert not any("Winograd" in note for note in fa.freeze(model).notes)
    layers = nn.Conv2d(3, 128, 3), nn.Conv2d(128, 128, 3), nn.Flatten(), nn.Linear(2048, 3)
    wide = nn.Sequential(*layers).eval()
    frozen = fa.freeze(wide)
    x = torch.rand(16, 3, 8, 8)
    torch.testing.assert_close(frozen(x), wide(x).detach(), rtol=1e-4, atol=1e-5)
    assert "1 convolutions by Winograd's method" in frozen.notes


@pytest.mark.usefixtures("_narrow_ones_too")
def test_without_the_extension_the_library_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "cpu_launcher", lambda card: None)
    assert by_winograd(nn.Sequential(nn.Conv2d(4, 4, 3)), torch.float32) == 0
