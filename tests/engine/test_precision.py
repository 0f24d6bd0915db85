"""Searches in float16, whose small numbers vanish, and in TF32, which is a switch of torch."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine.precision import has_tf32, rounds_as, switches, tf32, without_cudnn
from fastadv.errors import InputError
from tests.engine.nets import convnet, images
from tests.refusals import refuses
from tests.zoo.net import module


def products() -> str:
    """How products of float32 are taken on a GPU now."""
    each, name, on = switches()[0]
    return "tf32" if getattr(each, name) == on else "ieee"


GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("switch", "format", "device", "expected"),
    [
        ("tf32", torch.float32, GPU, "tf32"),
        ("ieee", torch.float32, GPU, torch.float32),
        ("tf32", torch.float32, torch.device("cpu"), torch.float32),
        ("tf32", torch.bfloat16, GPU, torch.bfloat16),
        ("tf32", None, GPU, "tf32"),
    ],
)
def test_float32_of_a_gpu_rounds_as_torch_lets_it(switch, format, device, expected, monkeypatch):
    of = [SimpleNamespace(fp32_precision=name) for name in ("none", switch)]
    monkeypatch.setattr(
        "fastadv.engine.precision.switches", lambda: [(each, "fp32_precision", "tf32") for each in of]
    )
    assert rounds_as(format, device) == expected


def net() -> nn.Sequential:
    return convnet().eval()


def by_autograd(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    leaf = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(model.double()(leaf)), leaf)
    model.float()
    return gradient


def sized(sizes: Tensor) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    return lambda logits, y, targets: logits.gather(1, y[:, None]).squeeze(1) * sizes.to(logits.dtype)


def test_float16_is_nearer_than_bfloat16() -> None:
    model, (x, y) = net(), images()
    exact = by_autograd(model, x, lambda z: nn.functional.cross_entropy(z, y, reduction="sum"))
    apart = {}
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        frozen = fa.freeze(model, precision)
        gradient = frozen.input_gradient(x, y)[2]
        assert frozen.search_dtype == dtype
        assert not any("fell back" in note for note in frozen.notes)
        assert any(str(dtype).removeprefix("torch.") in note for note in frozen.notes)
        apart[precision] = float((gradient - exact).norm() / exact.norm())
    assert apart["fp16"] < 2e-3
    assert 2 * apart["fp16"] < apart["bf16"]


@pytest.mark.parametrize("power", [-118, -20, 126])
def test_small_gradients_do_not_vanish(power: int) -> None:
    """Each sample's loss has a size of its own; float16 ends at 6e-8 and 65,504."""
    model, (x, y) = net(), images()
    loss = sized(2.0 ** (power - torch.arange(len(x))))
    exact = by_autograd(model, x, lambda z: loss(z, y, None).sum()).flatten(1)
    gradient = fa.freeze(model, "fp16").input_gradient(x, y, loss)[2].flatten(1)
    assert bool(((gradient - exact).norm(dim=1) < 4e-3 * exact.norm(dim=1)).all())


def test_overflow_falls_back() -> None:
    """Of activations beyond what float16 holds."""
    first, second = nn.Linear(128, 20), nn.Linear(20, 5)
    model = module(
        lambda self, x: self.second(self.first(x.flatten(1)) * 1e6) / 1e6, first=first, second=second
    )
    x, y = images()
    frozen = fa.freeze(model, "fp16")
    gradient = frozen.input_gradient(x, y)[2]
    exact = by_autograd(model, x, lambda z: nn.functional.cross_entropy(z, y, reduction="sum"))
    assert float((gradient - exact).norm()) < 1e-4 * float(exact.norm())
    assert any("fell back" in note for note in frozen.notes)
    assert frozen.exact


class Watching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(128, 5), []

    def forward(self, x: Tensor) -> Tensor:
        def back(gradient: Tensor) -> None:
            self.seen.append(("backward", products()))

        out: Tensor = self.layer(x.flatten(1))
        self.seen.append(("forward", products()))
        if out.requires_grad:
            out.register_hook(back)
        return out


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastadv.engine.precision.has_tf32", lambda device: True)


@pytest.mark.usefixtures("on_a_gpu")
def test_tf32_is_on_in_the_search_alone() -> None:
    model, (x, y) = Watching().eval(), images()
    before = products()
    assert before != "tf32"
    frozen = fa.freeze(model, "tf32")
    search = frozen.search.model.seen
    frozen.settle(x)
    assert not search
    frozen.input_gradient(x, y)  # compared with that of the model as given, for once
    frozen(x)  # and so are logits
    search.clear()
    for ask in (
        lambda: frozen.input_gradient(x, y),
        lambda: frozen.jacobian(x, torch.eye(5).expand(len(x), 5, 5)),
        lambda: frozen(x),
    ):
        ask()
        assert search
        assert {way[1] for way in search} == {"tf32"}
        assert products() == before
        search.clear()
    frozen.verdict(x)
    assert frozen.model.seen[-1] == ("forward", before)
    assert not frozen.exact
    assert "TF32 search" in frozen.notes


@pytest.mark.parametrize(
    ("changed", "now"),
    [(lambda: tf32("cuda"), products), (without_cudnn, lambda: torch.backends.cudnn.enabled)],
)
def test_what_threads_change_comes_back_when_the_last_one_leaves(changed, now) -> None:
    first, second, before = changed(), changed(), now()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert now() != before
    second.__exit__(None, None, None)
    assert now() == before


def test_tf32_where_it_would_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses("GPU of compute capability 8 or more for 'tf32', got Sequential on cpu", fa.freeze, net(), "tf32")
    monkeypatch.setattr("fastadv.engine.precision.has_tf32", lambda device: True)
    refuses("module in float32", fa.freeze, net().double(), "tf32")
    refuses(r"module in float32.*got function on None", fa.freeze, lambda x: x.flatten(1), "tf32")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_casts_a_copy_which_functions_have_not(precision: str) -> None:
    model, (x, _) = net().double(), images()
    with pytest.raises(InputError, match=f"a module for '{precision}', .*got function; leave the precision"):
        fa.freeze(lambda x: model(x), precision)
    frozen = fa.freeze(model, precision)
    frozen(x)
    assert frozen.search_dtype in (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("of", ["sample", "loss"])
def test_what_is_not_finite_sets_no_scale(of: str) -> None:
    model, (x, y) = net(), images()
    sizes = torch.full((len(x),), 2.0**-30)
    loss = sized(sizes)
    exact = by_autograd(model, x, lambda z: loss(z, y, None).sum())[2:]
    if of == "sample":
        x[0] = torch.nan
    else:
        sizes[0], sizes[1] = torch.nan, torch.inf
    gradient = fa.freeze(model, "fp16").input_gradient(x, y, loss)[2][2:]
    assert float((gradient - exact).norm()) < 4e-3 * float(exact.norm())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_passes_without_a_gradient_stay_in_the_models_precision(precision: Any) -> None:
    """Attacks without gradients, such as Square, compare losses that half precision does not tell apart."""
    model, (x, y) = net(), images(40)
    frozen = fa.freeze(model, precision)
    frozen.input_gradient(x, y)
    assert torch.equal(frozen(x), frozen.verdict(x))
    outs = [fa.attacks.square(model, x, y, fa.Linf(0.02), queries=30) for model in (frozen, net())]
    assert torch.equal(outs[0].x_adv, outs[1].x_adv)
    assert frozen.search_dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@pytest.mark.parametrize(
    ("capability", "hip", "has"), [((7, 5), None, False), ((8, 0), None, True), ((9, 0), "6.1", False)]
)
def test_a_torch_that_cannot_tell_has_tf32_since_ampere(capability, hip, has, monkeypatch):
    """PyTorch 2.4 has no torch.cuda.is_tf32_supported."""
    monkeypatch.delattr(torch.cuda, "is_tf32_supported", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.version, "hip", hip)
    assert has_tf32(torch.device("cuda")) is has
