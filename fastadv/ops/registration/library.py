"""Registration of ops: each is described by one frozen card, from which all else comes."""

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, ParamSpec

import torch

from fastadv._torch import changed
from fastadv._version import __version__
from fastadv.ops.registration.adapter import Signature, in_place_schema, over_layouts

logger = logging.getLogger("fastadv")
# a Triton of another version may lack a name, refuse an argument, or not start
BROKEN = (ImportError, AttributeError, TypeError, RuntimeError, OSError)
AGAIN = "install fastadv again"
Fields = ParamSpec("Fields")


def _import_if_there(name: str, *needs: str) -> tuple[Any, str]:
    """Import a module; return (module, ""), or (None, reason), which is empty where it is not installed."""
    try:
        return importlib.import_module(name), ""
    except ModuleNotFoundError as error:
        if error.name in (name, *needs):
            return None, ""
        why = str(error)
    except BROKEN as error:
        why = str(error) or type(error).__name__
    return _reported(name, why)


def _reported(name: str, why: str) -> tuple[None, str]:
    logger.warning("%s does not import, so its ops run as slower PyTorch code: %s", name, why)
    return None, why


def _of_another_python(package: Path) -> str:
    """Return why no extension in this folder is for this Python, or ""."""
    names = sorted(path.name for path in package.glob("_C.*") if path.suffix in {".so", ".pyd"})
    if not names or any(name.removeprefix("_C") in EXTENSION_SUFFIXES for name in names):
        return ""
    return f"{', '.join(names)} is for another Python than this one, {EXTENSION_SUFFIXES[0]}: {AGAIN}"


def _load_extension() -> tuple[Any, str]:
    """Import fastadv._C, unless it is of another Python or version of the package."""
    if why := _of_another_python(Path(__file__).parents[2]):
        return _reported("fastadv._C", why)
    module, why = _import_if_there("fastadv._C")
    if module is None:
        return module, why
    built = getattr(module, "__version__", "an older version")
    if built == __version__:
        return module, ""
    sys.modules.pop("fastadv._C", None)  # cards of results would name what built it
    return _reported("fastadv._C", f"it was built for fastadv {built}, and this is {__version__}: {AGAIN}")


extension, extension_fault = _load_extension()
# torch's registration calls carry no types
_torch: Any = torch
_library = _torch.library.Library("fastadv", "DEF")
CARDS: dict[str, "OpCard"] = {}
ANYWHERE = "CompositeExplicitAutograd"  # the dispatcher's key of a kernel for all devices

Sample = tuple[Any, ...]


@dataclass(frozen=True)
class OpCard:
    """Everything that describes one op.

    name          stem shared by ops/, ops/triton/, csrc/kernels/, tests/ops/ and the benchmark row
    schema        arguments and results in the dispatcher's language; the first argument is the batch.
                  Reference, fake, the binding in C++ and Triton's `launch` take the arguments in this order;
                  the latter two take what the op returns before them, as tensors to be written
    summary       the mathematics in a line, for docs/ops.md
    reference     eager PyTorch, correct in any float dtype: specification, oracle and visible fallback
    samples       samples(device, dtype) -> argument tuples that tests and benchmarks share
    compare       compare(actual, expected, args) raises AssertionError where the two differ by more than
                  rounding
    bytes_moved   bytes that must cross memory for these arguments
    flops         floating-point operations for these arguments
    fake          results of the right shape, dtype and layout, unfilled: for tracing, and for kernels to
                  write; as a rule one like the first argument
    no_gradient   why the op has none, as its backward says it; None where `gradient` is given
    gradient      (setup_context, backward), the formula
    in_place      also register NAME_, which writes its first argument
    ordered       C++ reads each row in the order of its elements, because ties go to the lower index or draws
                  depend on it
    strided       names of arguments that C++ takes with any step along their first dimension
    dtypes        what the kernels take, of the first argument; the reference serves every other dtype
    """

    name: str
    schema: str
    summary: str
    reference: Callable[..., Any]
    samples: Callable[[torch.device, torch.dtype], Iterator[Sample]]
    compare: Callable[[Any, Any, Sample], None]
    bytes_moved: Callable[..., int]
    flops: Callable[..., int]
    fake: Callable[..., Any] = lambda first, *rest: torch.empty_like(first)
    no_gradient: str | None = None
    gradient: tuple[Callable[..., None], Callable[..., Any]] | None = None
    in_place: bool = False
    ordered: bool = False
    strided: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)

    @cached_property
    def signature(self) -> Signature:
        return Signature.of(self.schema)

    @property
    def stem(self) -> str:
        return self.name.rstrip("_")

    @property
    def triton(self) -> bool:
        """Whether ops/triton holds a kernel; without one the reference serves GPUs."""
        return importlib.util.find_spec(f"fastadv.ops.triton.{self.stem}") is not None


def results_of(card: OpCard, args: Sample) -> Sample:
    """Allocate the op's results for these arguments, which its kernels take first."""
    results = card.fake(*args)
    return (results,) if card.signature.results == 1 else results or ()


def cpu_launcher(card: OpCard) -> Callable[..., None] | None:
    """Return the op's C++ kernel as launcher(*results, *arguments), or None if the extension lacks it."""
    kernel = getattr(extension, card.stem, None)
    return None if kernel is None else over_layouts(kernel, card.signature, card.ordered, card.strided)


def _triton_module(card: OpCard) -> tuple[Any, str]:
    return _import_if_there(f"fastadv.ops.triton.{card.stem}", "triton")


def triton_launcher(card: OpCard) -> Callable[..., None] | None:
    """Return the op's Triton kernel as launcher(*results, *arguments), or None if there is none."""
    module, why = _triton_module(card)
    if why:
        raise ImportError(f"fastadv.ops.triton.{card.stem}: {why}")
    launcher: Callable[..., None] | None = None if module is None else module.launch
    return launcher


def _fallback(card: OpCard) -> Callable[..., Any]:
    def reference(*args: Any) -> Any:
        if os.environ.get("FASTADV_STRICT") == "1":
            served = ", ".join(str(dtype) for dtype in card.dtypes)
            raise RuntimeError(
                f"{card.name}: FASTADV_STRICT=1, and no compiled kernel serves {args[0].dtype} on "
                f"{args[0].device}; kernels serve {served} where fastadv.backends() names one. "
                "Convert the inputs, build the extension, or unset FASTADV_STRICT to use the slower reference"
            )
        result = card.reference(*args)
        if isinstance(result, torch.Tensor):
            return _laid_out(result, card.fake(*args))
        return result and tuple(map(_laid_out, result, card.fake(*args)))

    return reference


def _laid_out(result: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bring `result` into the memory layout of the fake `like`, with which compiled graphs were traced."""
    return result if result.stride() == like.stride() else like.copy_(result)


def _compiled(card: OpCard, kernel: Callable[..., None]) -> Callable[..., Any]:
    """Serve the dtypes on the card by the kernel, all others (float64, float16) by the reference."""
    dtypes, fallback, fake, written = card.dtypes, _fallback(card), card.fake, card.signature.written
    alone = card.signature.results == 1

    def compiled(*args: Any) -> Any:
        if args[0].dtype not in dtypes:
            return fallback(*args)
        results = fake(*args)
        kernel(*((results,) if alone else results or ()), *args)
        if written:
            changed([args[i] for i in written])
        return results

    return compiled


def _in_place(card: OpCard, kernel: Callable[..., None] | None) -> Callable[..., None]:
    dtypes, fallback = card.dtypes, _fallback(card)

    def write(first: torch.Tensor, *rest: Any) -> None:
        if kernel is None or first.dtype not in dtypes:
            first.copy_(fallback(first, *rest))
        else:
            kernel(first, first, *rest)
            changed([first])

    return write


def _raises(card: OpCard) -> Callable[..., Any]:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{card.name} has no gradient: {card.no_gradient}; detach its inputs")

    return backward


def op(name: str) -> Callable[..., torch.Tensor]:
    """Return the registered op, which takes arguments by position; its results unpack as a tensor does."""
    return getattr(torch.ops.fastadv, name).default  # type: ignore[no-any-return]


def bind(name: str, device: torch.device) -> Callable[..., None]:
    """Return the op's kernel for a device as kernel(*results, *arguments), which checks none of them."""
    return _bound(name, device.type)


@cache
def _bound(name: str, kind: str) -> Callable[..., None]:
    card = CARDS[name]
    launcher = {"cpu": cpu_launcher, "cuda": triton_launcher}.get(kind)
    kernel = (launcher and launcher(card)) or partial(_written, card)

    def bound(*args: Any) -> None:
        launch(kernel, *args)

    return bound


def launch(kernel: Callable[..., None], *args: Any) -> None:
    """Call a kernel that was bound. Tests record here what the dispatcher does not see."""
    kernel(*args)


def _written(card: OpCard, *args: Any) -> None:
    """Write what the op returns for the arguments into the results before them."""
    count = card.signature.results
    values = op(card.name)(*args[count:])
    for result, value in zip(args[:count], (values,) if count == 1 else values or (), strict=True):
        result.copy_(value)


def _define(name: str, schema: str, kernels: dict[str, Callable[..., Any]]) -> None:
    """Define an op, with a kernel for each key of the dispatcher."""
    _library.define(name + schema)
    for key, kernel in kernels.items():
        _library.impl(name, kernel, key)


def _of_fields(define: Callable[[OpCard], None], card: Callable[Fields, OpCard]) -> Callable[Fields, None]:
    """Let a function of a card take the card's fields, checked as those of the card."""

    def called(*args: Fields.args, **fields: Fields.kwargs) -> None:
        define(card(*args, **fields))

    return called


def _register(card: OpCard) -> None:
    """Define the op of a card and give every device its best kernel."""
    CARDS[card.name] = card
    kernels: dict[str, Callable[..., None] | None] = {ANYWHERE: None}
    if launcher := cpu_launcher(card):
        kernels["CPU"] = launcher
    if torch.cuda.is_available() and (module := _triton_module(card)[0]):
        kernels["CUDA"] = module.launch

    served = {key: _compiled(card, kernel) if kernel else _fallback(card) for key, kernel in kernels.items()}
    _define(card.name, card.schema, served)
    name = f"fastadv::{card.name}"
    torch.library.register_fake(name, card.fake, lib=_library)
    if not card.signature.written:
        context, backward = card.gradient or (None, _raises(card))
        torch.library.register_autograd(name, backward, setup_context=context, lib=_library)
    if card.in_place:
        written = {key: _in_place(card, kernel) for key, kernel in kernels.items()}
        _define(f"{card.name}_", in_place_schema(card.schema), written)
        torch.library.register_fake(f"{name}_", lambda *args: None, lib=_library)


register = _of_fields(_register, OpCard)  # called once, at the end of each ops/NAME.py


def _cpu_backend(card: OpCard) -> str:
    if hasattr(extension, card.stem):
        return f"C++ ({extension.isa()})"
    if extension_fault:
        return f"reference (the extension does not import: {extension_fault})"
    if extension is None:
        return "reference (no extension: FASTADV_NO_EXT=1 or build failed)"
    return "reference (no C++ kernel)"


def _cuda_backend(card: OpCard) -> str:
    if not torch.cuda.is_available():
        return "absent"
    module, why = _triton_module(card)
    if module is not None:
        return "Triton"
    if why:
        return f"reference (the Triton kernel does not import: {why})"
    missing = card.triton and importlib.util.find_spec("triton") is None
    return "reference (Triton is not installed)" if missing else "reference (no Triton kernel)"


def backends() -> dict[str, dict[str, str]]:
    """Return which implementation serves each op on each device.

    Returns:
        The implementation for each op and device, as in `{"linf_step": {"cpu": "C++ (avx512)", "cuda":
        "Triton"}}`. For an op that runs on its eager reference, `reference` and the reason.

    Example:
        >>> import fastadv as fa
        >>> sorted(fa.backends()["linf_step"])
        ['cpu', 'cuda']
    """
    return {
        name: {"cpu": _cpu_backend(card), "cuda": _cuda_backend(card)} for name, card in sorted(CARDS.items())
    }
