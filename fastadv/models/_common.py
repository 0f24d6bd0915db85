"""What every built-in network shares: a strict look at its input, and reproducible first weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from fastadv._checks import check_choice, check_count
from fastadv._torch import version
from fastadv.errors import InputError
from fastadv.rng import CPU, generators_kept

Shape = tuple[int, int, int]  # (C, H, W) of one image
# What clean accuracy the files of weights state, by the net, with the versions of its parameters then
_STATED: WeakKeyDictionary[nn.Module, tuple[float, list[int]]] = WeakKeyDictionary()
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}  # swish in many papers


def activation_layer(name: str) -> nn.Module:
    """Return a layer of that activation with torch's defaults; InputError for an unknown name."""
    return ACTIVATIONS[check_choice("activation", name, ACTIVATIONS)]()


def state_accuracy(model: nn.Module, share: float | None) -> None:
    """Keep what clean accuracy is stated of a model with the weights that it has now."""
    if share is not None:
        _STATED[model] = share, [version(one) for one in model.parameters()]


def stated_accuracy(model: object) -> float | None:
    """Return the clean accuracy that is stated of a model; None of one without, or that was trained since."""
    share, versions = _STATED.get(model, (None, [])) if isinstance(model, nn.Module) else (None, [])
    same = isinstance(model, nn.Module) and versions == [version(one) for one in model.parameters()]
    return share if same else None


def check_batch(x: Tensor, shape: Any) -> Tensor:
    """Return `x` when it is a floating-point batch [B, *shape] (None: any size); InputError otherwise."""
    if not is_scripting():  # TorchScript knows no such error
        _check_batch(x, shape)
    return x


def centered(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (x - mean) / std for x [B, C, ...], images, series or volumes; InputError for another C."""
    channels: list[int | None] = [len(mean) if len(mean) > 1 else None]
    if not is_scripting():
        check_batch(x, (*channels, *[None] * max(1, x.dim() - 2)))
    shape = [-1] + [1] * (x.dim() - 2)
    return (x - mean.view(shape)) / std.view(shape)


def _check_batch(x: Tensor, shape: tuple[int | None, ...]) -> None:
    if not x.is_floating_point():
        raise InputError(f"expected floating images in [0, 1], got {x.dtype}; for 0..255 use x.float() / 255")
    got = tuple(x.shape[1:])
    if len(got) != len(shape) or any(want not in (None, size) for want, size in zip(shape, got, strict=True)):
        want = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(
            f"expected a batch of shape [B, {want}], got {list(x.shape)}; add a batch dimension to one image "
            "(x[None]), or make the model for this shape"
        )


Numbers = float | Sequence[float] | Tensor  # one, or one for each channel; arrays, too


def numbers(name: str, values: Any) -> list[float]:
    """Return a number, or one for each channel, as a list."""
    try:
        floats: list[float] = torch.as_tensor(values, dtype=torch.float64, device="cpu").flatten().tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: expected a number, or one for each channel, got {values!r}") from error
    return floats


def register_statistics(module: nn.Module, mean: Numbers, std: Numbers) -> None:
    """Give a module the buffers `mean` and `std` [C, 1, 1]; InputError for values that cannot normalize."""
    mean, std = numbers("mean", mean), numbers("std", std)
    if len(mean) != len(std) or not mean:
        raise InputError(f"expected as many means as standard deviations, got {len(mean)} and {len(std)}")
    values = torch.tensor([mean, std], dtype=torch.float64, device="cpu")
    if not values.isfinite().all() or not (values[1] > 0).all():
        raise InputError(f"expected finite means and std > 0, got mean {[*mean]} and std {[*std]}")
    for name, value in (("mean", mean), ("std", std)):
        module.register_buffer(name, torch.tensor(value).view(-1, 1, 1))


def check_sizes(classes: int, shape: tuple[int, ...], *width: int) -> None:
    """Raise InputError for fewer than two classes, sizes below 1, or, with `width`, a shape not (C, H, W)."""
    if classes < 2:
        raise InputError(f"expected classes >= 2 (one logit for each class), got {classes}")
    if not shape or min(shape) < 1 or (width and len(shape) != 3):
        want = "(channels, height, width)" if width else "positive sizes"
        raise InputError(f"expected shape as {want}, without the batch, got {tuple(shape)}")
    for channels in width:
        check_count("width", channels, 1)


def draw_convolutions(model: nn.Module, fan: str = "fan_out") -> None:
    """Draw convolutions as He et al. 2015 do, by what leaves them or, with "fan_in", by what enters them."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=fan, nonlinearity="relu")  # type: ignore[arg-type]


@contextmanager
def first_weights(seed: int | None) -> Iterator[None]:
    """Draw initial weights on the CPU from `seed` and restore the global generator; None: draw from that."""
    if seed is None:
        yield
        return
    with generators_kept(CPU, seed), CPU:
        yield
