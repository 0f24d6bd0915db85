"""The options of `freeze`, the precision of a search, and torch's switches for TF32 and cuDNN."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fastadv._checks import check_choice, check_flag
from fastadv._torch import NormBase, convert, switches_each
from fastadv.engine.arguments import Outputs
from fastadv.errors import InputError


def switches() -> list[tuple[Any, str, Any]]:
    """Return (object, attribute, value for on) of what switches TF32; since torch 2.9 for each kind."""
    backends: Any = torch.backends
    cuda, cudnn = backends.cuda.matmul, backends.cudnn
    if switches_each:
        return [(backend, "fp32_precision", "tf32") for backend in (cuda, cudnn.conv, cudnn.rnn)]
    return [(backend, "allow_tf32", True) for backend in (cuda, cudnn)]


def rounds_as(format: torch.dtype | str | None, device: torch.device) -> torch.dtype | str | None:
    """Return "tf32" for float32, or for None, of several formats, on a GPU that may take products in it."""
    single = format in (torch.float32, None) and device.type == "cuda"
    return (
        "tf32" if single and any(getattr(backend, name) == on for backend, name, on in switches()) else format
    )


_lock, _before = threading.Lock(), list[bool]()  # whether cuDNN was on when each thread inside came


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Leave cuDNN inside, for all threads; the last that leaves switches it back."""
    cudnn: Any = torch.backends.cudnn
    with _lock:
        _before.append(cudnn.enabled)
        cudnn.enabled = False
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:
                cudnn.enabled = before


Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Options:
    """The options of `freeze`; `follow`: a model in training, whose values each `Frozen.refresh` takes."""

    precision: Precision = "fp32"
    compile: bool = False
    cuda_graph: bool | None = None
    follow: bool = False
    outputs: Outputs = "classes"  # that the model returns

    @property
    def special(self) -> bool:
        """Whether a copy is more than the model with functions rewritten."""
        return self.precision != "fp32" or self.compile

    @property
    def half(self) -> torch.dtype | None:
        """The dtype of weights in half precision."""
        return torch.bfloat16 if self.precision == "bf16" else None

    def describe(self) -> dict[str, Any]:
        """Return those that can change results, for the identity of a run."""
        return {"precision": self.precision, "compile": self.compile}

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        check_flag("compile", self.compile)
        if self.cuda_graph is not None:
            check_flag("cuda_graph", self.cuda_graph)


def check_possible(
    options: Options, name: str, module: nn.Module | None, device: torch.device | None
) -> None:
    """Raise InputError where the options cannot be had of a model of that name."""
    if options.cuda_graph and (device or torch.device("cpu")).type != "cuda":
        raise InputError(
            f"freeze: expected a model on a CUDA device for cuda_graph, got {device}; leave cuda_graph off"
        )
    if options.half and module is None:
        raise InputError(
            f"freeze: expected a module for {options.precision!r}, whose copy is cast, got "
            f"{name}; leave the precision out"
        )


def to_half(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights and buffers in place; those of normalization layers with statistics go to float32."""
    norms = [part for part in model.modules() if isinstance(part, NormBase)]
    wide = {id(tensor) for part in norms for tensor in (*part.parameters(), *part.buffers())}

    def cast(tensor: Tensor) -> Tensor:
        to = torch.float32 if id(tensor) in wide else dtype
        return tensor.to(to) if tensor.is_floating_point() else tensor

    convert(model, cast)


NOTHING = nullcontext()
_may_cast = cache(torch.amp.is_autocast_available)  # a device


def no_autocast(device: str) -> AbstractContextManager[object]:
    """Cast nothing inside, whatever is on around."""
    if _may_cast(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return NOTHING


def with_gradient() -> AbstractContextManager[object]:
    """Follow gradients inside, under inference_mode too."""
    return _outside_inference(torch.enable_grad())


def no_gradient() -> AbstractContextManager[object]:
    """Follow no gradient inside, and make plain tensors under inference_mode too."""
    follows = torch.is_grad_enabled() or torch.is_inference_mode_enabled()
    return _outside_inference(torch.no_grad()) if follows else NOTHING


def _outside_inference(mode: AbstractContextManager[object]) -> AbstractContextManager[object]:
    if not torch.is_inference_mode_enabled():
        return mode
    inside = ExitStack()
    inside.enter_context(torch.inference_mode(False))
    inside.enter_context(mode)
    return inside
