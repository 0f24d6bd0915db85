"""Registration of ops: one frozen card an op; from the cards come schemas, kernels, tests, benchmark rows and the docs table."""

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

extension: Any
try:
    extension = importlib.import_module("fastadv._C")
except ImportError:  # installed with FASTADV_NO_EXT=1
    extension = None
# torch's registration calls carry no types
_torch: Any = torch
_library = _torch.library.Library("fastadv", "DEF")
CARDS: dict[str, "OpCard"] = {}

Sample = tuple[Any, ...]


@dataclass(frozen=True)
class OpCard:
    """Everything the project knows of one op.

    name          stem shared by ops/, ops/triton/, csrc/kernels/, tests/ops/ and the benchmark row
    schema        arguments and results in the dispatcher's language; the first argument is the batch
    summary       the mathematics, in a line, for the docs table
    reference     eager PyTorch, correct in any float dtype: specification, oracle and visible fallback
    fake          shapes and dtypes of the result, for tracing
    samples       samples(device, dtype) -> argument tuples that tests and benchmarks share
    no_gradient   why the op has none, as its backward says it; None where `gradient` is given
    gradient      (setup_context, backward), the formula
    cpu           runs the C++ kernel on NumPy views: cpu(out, *arguments) where `into`, else cpu(*arguments) -> result; Triton's `launch` likewise
    triton        ops/triton holds a kernel; without one the reference serves GPUs
    into          the kernels write a result shaped like the first argument
    in_place      also register NAME_ , which writes its first argument (implies `into`)
    compare       compare(actual, expected, args) raises AssertionError where the two differ by more than rounding
    bytes_moved   bytes that must cross memory for these arguments
    flops         floating-point operations for these arguments
    """

    name: str
    schema: str
    summary: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    samples: Callable[[torch.device, torch.dtype], Iterator[Sample]]
    compare: Callable[[Any, Any, Sample], None]
    bytes_moved: Callable[..., int]
    flops: Callable[..., int]
    no_gradient: str | None = None
    gradient: tuple[Callable[..., None], Callable[..., Any]] | None = None
    cpu: Callable[..., Any] | None = None
    triton: bool = True
    into: bool = True
    in_place: bool = False
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


def strict() -> bool:
    """True where FASTADV_STRICT=1 turns a fallback into an error."""
    return os.environ.get("FASTADV_STRICT") == "1"


def compiled_cpu(card: OpCard) -> bool:
    """Whether the C++ extension holds this op."""
    return card.cpu is not None and extension is not None and hasattr(extension, card.name.rstrip("_"))


def triton_launcher(card: OpCard) -> Callable[..., Any] | None:
    """The op's Triton launcher, called like `cpu`; None where Triton or the kernel is absent."""
    if not card.triton:
        return None
    try:
        module = importlib.import_module(f"fastadv.ops.triton.{card.name.rstrip('_')}")
    except ImportError:
        return None
    launcher: Callable[..., Any] = module.launch
    return launcher


def _fallback(card: OpCard) -> Callable[..., Any]:
    def reference(*args: Any) -> Any:
        if strict():
            raise RuntimeError(
                f"{card.name}: FASTADV_STRICT=1 and no compiled kernel serves {args[0].dtype} on {args[0].device}; "
                "build the extension (pip install without FASTADV_NO_EXT), or unset FASTADV_STRICT to use the reference"
            )
        return card.reference(*args)

    return reference


def _compiled(card: OpCard, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel for the dtypes the card claims, the reference for every other (float64, float16)."""
    dtypes, reference, into = card.dtypes, card.reference, card.into

    def dispatch(*args: Any) -> Any:
        if args[0].dtype not in dtypes:
            return reference(*args)
        if not into:
            return kernel(*args)
        out = torch.empty_like(args[0])
        kernel(out, *args)
        return out

    return dispatch


def _in_place(card: OpCard, kernel: Callable[..., Any] | None) -> Callable[..., None]:
    dtypes, reference = card.dtypes, _fallback(card) if kernel is None else card.reference

    def write(first: torch.Tensor, *rest: Any) -> None:
        if kernel is None or first.dtype not in dtypes:
            first.copy_(reference(first, *rest))
        else:
            kernel(first, first, *rest)

    return write


def _raises(card: OpCard) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{card.name} has no gradient: {card.no_gradient}; detach its inputs")

    return backward


def register(card: OpCard) -> None:
    """Define the op and give every device its best kernel. Called once, at the end of each ops/NAME.py."""
    CARDS[card.name] = card
    first = card.schema.split("(", 1)[1].split(",", 1)[0].removeprefix("Tensor ")
    twin = (
        f"{card.name}_"
        + card.schema.replace(f"Tensor {first}", f"Tensor(a!) {first}", 1).rsplit("->", 1)[0]
        + "-> ()"
    )
    kernels: dict[str, Callable[..., Any] | None] = {"CompositeExplicitAutograd": None}
    if compiled_cpu(card):
        kernels["CPU"] = card.cpu
    if torch.cuda.is_available() and (launcher := triton_launcher(card)):
        kernels["CUDA"] = launcher

    _library.define(card.name + card.schema)
    for key, kernel in kernels.items():
        _library.impl(card.name, _compiled(card, kernel) if kernel else _fallback(card), key)
    name = f"fastadv::{card.name}"
    torch.library.register_fake(name, card.fake, lib=_library)
    if "!" not in card.schema:
        context, backward = card.gradient or (None, _raises(card))
        torch.library.register_autograd(name, backward, setup_context=context, lib=_library)
    if card.in_place:
        _library.define(twin)
        for key, kernel in kernels.items():
            _library.impl(f"{card.name}_", _in_place(card, kernel), key)
        torch.library.register_fake(f"{name}_", lambda *args: None, lib=_library)


def backends() -> dict[str, dict[str, str]]:
    """For each op, what serves each device: {"linf_step": {"cpu": "C++ (avx512)", "cuda": "Triton"}, ...}.

    A device served by the eager reference says `reference` and why.
    """
    missing = "no extension: FASTADV_NO_EXT=1 or build failed" if extension is None else "no C++ kernel"
    cuda = torch.cuda.is_available()
    return {
        name: {
            "cpu": f"C++ ({extension.isa()})" if compiled_cpu(card) else f"reference ({missing})",
            "cuda": "absent"
            if not cuda
            else "Triton"
            if triton_launcher(card)
            else "reference (no Triton kernel)",
        }
        for name, card in sorted(CARDS.items())
    }
