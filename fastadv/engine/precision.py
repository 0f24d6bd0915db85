"""The options of `freeze`, the precision of a search, and the switches of torch for TF32 and cuDNN."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fastadv._checks import check_count
from fastadv._torch import NormBase, convert, multiplies_in_tf32, switches_each
from fastadv.engine.arguments import Outputs
from fastadv.errors import InputError


def _shared(switch: Callable[[], AbstractContextManager[None]]) -> Callable[[], AbstractContextManager[None]]:
    """Return the same for several threads, the last of which to leave switches back."""
    lock, within, switched = threading.Lock(), list[object](), ExitStack()

    @contextmanager
    def shared() -> Iterator[None]:
        this = object()
        with lock:
            if not within:
                switched.enter_context(switch())
            within.append(this)
        try:
            yield
        finally:
            with lock:
                within.remove(this)
                if not within:
                    switched.close()

    return shared


def has_tf32(device: torch.device) -> bool:
    """Return whether the device multiplies float32 in TF32 where it may."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return multiplies_in_tf32()


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


@contextmanager
def _switch() -> Iterator[None]:
    """Switch inside, as well as an older switch of torch, which may not disagree."""
    backends: Any = torch.backends
    turned = [(backend, name, on) for backend, name, on in switches() if getattr(backend, name) != on]
    kept = [(backend, name) for backend, name, _ in turned]
    if switches_each:
        kept.append((backends.mkldnn.matmul, "fp32_precision"))
    before = [getattr(backend, name) for backend, name in kept]
    older = _older() if turned and turned[0][0] is backends.cuda.matmul else None
    try:
        if older is not None:
            torch.set_float32_matmul_precision("high")
        for backend, name, on in turned:
            setattr(backend, name, on)
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)  # which turns oneDNN's, too
        for (backend, name), value in zip(kept, before, strict=True):
            setattr(backend, name, value)


def _older() -> str | None:
    """Return the older switch; None where it cannot be read, because the caller has set the others alone."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@contextmanager
def _cudnn_off() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    before, cudnn.enabled = cudnn.enabled, False
    try:
        yield
    finally:
        cudnn.enabled = before


switched_on = _shared(_switch)  # lets CUDA multiply float32 in TF32 inside
without_cudnn = _shared(_cudnn_off)


Precision = Literal["fp32", "tf32", "bf16", "fp16", "auto"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
AUTO = "auto"  # the fastest on the first batch
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # those that are dtypes of weights


@dataclass(frozen=True)
class Options:
    """The options of `freeze`; `follow`: a model in training, whose values each `Frozen.refresh` takes."""

    precision: Precision = "fp32"
    compile: bool | None = None  # None: where an attack plans work that is worth it
    cuda_graph: bool | None = None
    eot: int = 1
    follow: bool = False
    outputs: Outputs = "classes"  # that the model returns

    @property
    def special(self) -> bool:
        """Whether a copy is more than the model with functions rewritten."""
        return self.precision != "fp32" or bool(self.compile)

    @property
    def half(self) -> torch.dtype | None:
        """The dtype of weights in half precision."""
        return HALF.get(self.precision)

    def asked(self) -> dict[str, Any]:
        """Return the arguments of `freeze` that ask for them."""
        return {name: value for name, value in asdict(self).items() if name not in ("follow", "outputs")}

    def describe(self) -> dict[str, Any]:
        """Return those that can change results, for the identity of a run."""
        return {"precision": self.precision, "compile": bool(self.compile), "eot": self.eot}

    def __post_init__(self) -> None:
        if not isinstance(self.precision, str) or self.precision not in PRECISIONS:
            raise InputError(
                f"freeze: expected precision {', '.join(map(repr, PRECISIONS))}, got {self.precision!r}"
            )
        for name in ("compile", "cuda_graph"):
            if (value := getattr(self, name)) is not None and not isinstance(value, bool):
                raise InputError(f"freeze: expected None, True or False for {name}, got {value!r}")
        check_count("eot", self.eot, 1)
        if self.eot > 1 and self.cuda_graph:
            raise InputError(
                f"freeze: expected eot=1 with cuda_graph, got eot={self.eot}; a captured pass repeats random "
                "numbers that Python drew, so leave one of the two out"
            )


def check_possible(
    options: Options, name: str, module: nn.Module | None, device: torch.device | None
) -> None:
    """Raise InputError where the options cannot be had of a model of that name."""
    place = device or torch.device("cpu")
    if options.cuda_graph and place.type != "cuda":
        raise InputError(
            f"freeze: expected a model on a CUDA device for cuda_graph, got {device}; leave cuda_graph off"
        )
    weights = () if module is None else module.parameters()
    single = any(weight.dtype == torch.float32 for weight in weights)
    if options.precision == "tf32" and not (single and has_tf32(place)):
        raise InputError(
            "freeze: expected a module in float32 on a GPU of compute capability 8 or more for 'tf32', "
            f"got {name} on {device}; leave the precision out"
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


def no_autocast(device: str) -> AbstractContextManager[object]:
    """Cast nothing inside, whatever is on around."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
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


@contextmanager
def tf32(device: str) -> Iterator[None]:
    """Let CUDA multiply float32 in TF32 inside, and cast nothing."""
    with switched_on(), no_autocast(device):
        yield
