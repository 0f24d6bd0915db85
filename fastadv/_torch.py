"""The private symbols of torch that this library uses, each with what it is for.

No other file names one. `tests/test_torch_private.py` says what is expected of each, so that a new version of
torch fails there and not in an attack.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# layers of normalization, and those of them that are a BatchNorm: bases of the public classes
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase

# sees each kernel that a thread calls, with its results
from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode

__all__ = ["COMPILED_FUNCTION", "COMPILED_MODULE", "BatchNorm", "DispatchMode", "NormBase"]

# the attribute under which torch.compile and torch._dynamo.disable leave the function they were given
COMPILED_FUNCTION = "_torchdynamo_orig_callable"
# the attribute under which torch.compile leaves the module it was given
COMPILED_MODULE = "_orig_mod"

_C: Any = torch._C
_mkldnn: Any = torch.ops.mkldnn
_modules: Any = nn.modules.module
GLOBAL_HOOKS = [name for name in vars(_modules) if name.startswith("_global_") and name.endswith("hooks")]

switches_each = hasattr(torch.backends.cudnn, "conv")  # TF32 for each kind of operation: since 2.9
counts_several = torch.__version__ >= "2.5"  # changes of several tensors by one call
# the arguments and results of an op, from text such as "op(Tensor x) -> Tensor"
parse_schema = _C.parse_schema


# modules and weights that are cut among processes; the names with an underscore are those before 2.6 and 2.5
_SHARDED = ("fsdp.FullyShardedDataParallel", "fsdp.FSDPModule", "_composable.fsdp.FSDPModule")
_CUT = ("tensor.DTensor", "_tensor.DTensor")


def sharding() -> tuple[tuple[type, ...], tuple[type, ...]]:
    """Return the classes of sharded modules and of their weights: those whose modules are imported."""

    def imported(names: Sequence[str]) -> tuple[type, ...]:
        places = (f"torch.distributed.{name}".rpartition(".") for name in names)
        kinds = (getattr(sys.modules.get(module), name, None) for module, _, name in places)
        return tuple(dict.fromkeys(kind for kind in kinds if kind is not None))

    return imported(_SHARDED), imported(_CUT)


def version(tensor: Tensor) -> int:
    """Return a number that grows with each write into the tensor or a view of its memory."""
    return tensor._version


def holds_compiled(module: nn.Module) -> bool:
    """Return whether the module is one that torch.compile made of another."""
    return COMPILED_MODULE in module._modules


def compiled_call(module: nn.Module) -> Callable[..., Any] | None:
    """Return what `module(x)` runs instead of its own call, as `nn.Module.compile` has it."""
    return module._compiled_call_impl


def compiled_form(module: nn.Module) -> Callable[..., Any]:
    """Return the module's call through torch.compile, which compiles it anew for each shape."""
    call: Callable[..., Any] = torch.compile(module._call_impl, dynamic=False)
    return call


@contextmanager
def called_by(module: nn.Module, call: Callable[..., Any] | None) -> Iterator[None]:
    """Let `module(x)` run `call` inside, unless it is None."""
    held, name = vars(module), "_compiled_call_impl"  # of the class, unless the caller has set it
    before = {name: held[name]} if name in held else {}
    held |= {} if call is None else {name: call}
    try:
        yield
    finally:
        held.pop(name, None)
        held |= before


def has_hooks(tensor: Tensor) -> bool:
    """Return whether functions look at the gradient of a tensor as it is made."""
    return bool(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None))


def convert(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Replace each parameter and buffer of the module in place, as `module.to` does."""
    module._apply(change)  # type: ignore[no-untyped-call]


def copy_all_(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy a value into each tensor, in one launch where a GPU can."""
    torch._foreach_copy_(list(tensors), list(values))


def lerp_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move each tensor that share of the way to its end, in place and in one launch."""
    torch._foreach_lerp_(tensors, ends, weight)


def parts_of(module: nn.Module) -> list[nn.Module]:
    """Return `list(module.modules())`, in a fifth of its time."""
    seen: dict[nn.Module, None] = {}
    _add_parts(seen, module)
    return list(seen)


# a function within the other would hold itself, and all parts until garbage is collected
def _add_parts(seen: dict[nn.Module, None], part: nn.Module) -> None:
    seen[part] = None
    for inner in part._modules.values():
        if inner is None or inner in seen:
            continue
        if inner._modules:
            _add_parts(seen, inner)
        else:  # as most are
            seen[inner] = None


def nodes_of(last: Any) -> Iterator[Any]:
    """Yield the nodes of the graph that ends with `last`, each once."""
    seen, waiting = set[Any](), [last]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            yield node


def tensors_of(parts: Iterable[nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters and the buffers that modules hold themselves."""
    weights: list[Tensor] = []
    buffers: list[Tensor] = []
    for part in parts:
        if part._parameters:
            weights += [one for one in part._parameters.values() if one is not None]
        if part._buffers:
            buffers += [one for one in part._buffers.values() if one is not None]
    return weights, buffers


def has_global_hooks() -> bool:
    """Return whether something hooks every module."""
    return any(map(vars(_modules).get, GLOBAL_HOOKS))


def has_modes() -> bool:
    """Return whether a mode sees the calls of this thread."""
    return bool(_C._is_torch_function_mode_enabled() or _C._len_torch_dispatch_stack())


def is_transformed() -> bool:
    """Return whether a transform of torch.func is at work."""
    return _C._functorch.maybe_current_level() is not None


def without_modes() -> AbstractContextManager[None]:
    """Hide calls inside from every TorchFunctionMode and every subclass of Tensor."""
    return _C.DisableTorchFunction()  # type: ignore[no-any-return]


def changed(tensors: Sequence[Tensor]) -> None:
    """Tell autograd that tensors were overwritten."""
    if counts_several:
        _C._increment_version(tensors)
    else:
        for tensor in tensors:
            _C._increment_version(tensor)


def run_backward(
    outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...], retain_graph: bool, leaves: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Return `torch.autograd.grad`, or `backward` without leaves, which no TorchFunctionMode sees."""
    engine: Any = torch.autograd.Variable._execution_engine
    answer: tuple[Tensor | None, ...] = engine.run_backward(
        outputs,
        gradients,
        retain_graph,
        False,  # no graph of the gradient
        leaves,
        allow_unreachable=True,
        accumulate_grad=not leaves,
    )
    return answer


def has_onednn_ops() -> bool:
    """Return whether torch was built with oneDNN and its ops below."""
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    names = ("_convolution_pointwise", "_reorder_convolution_weight")
    return bool(built) and all(hasattr(_mkldnn, name) for name in names)


def onednn_pack(kernels: Tensor, groups: int, shape: Sequence[int]) -> Tensor:
    """Kernels [O, C, 1, 1] of a convolution in groups, packed as oneDNN reads them for inputs of `shape`."""
    packed: Tensor = _mkldnn._reorder_convolution_weight(kernels, [0, 0], [1, 1], [1, 1], groups, list(shape))
    return packed


def onednn_convolve(x: Tensor, packed: Tensor, groups: int) -> Tensor:
    """Return the convolution of x with such kernels, without a derivative."""
    result: Tensor = _mkldnn._convolution_pointwise(
        x, packed, None, [0, 0], [1, 1], [1, 1], groups, "none", [], ""
    )
    return result


def onednn_has_bfloat16() -> bool:
    """Return whether oneDNN computes in bfloat16 on this CPU; where it does not, it raises."""
    return bool(_mkldnn._is_mkldnn_bf16_supported())


class Feature(NamedTuple):
    """What not every torch has: its first version, whether this one has it, what is done without."""

    name: str
    since: str
    here: bool
    without: str


FEATURES = (
    Feature("torch.compile of a search", "2.0", hasattr(torch, "compile"), ""),
    Feature("convolutions by oneDNN's own ops", "2.0", has_onednn_ops(), "PyTorch's own; Winograd is off"),
    Feature("torch.export of ops", "2.1", find_spec("torch.export") is not None, ""),
    Feature("torch.library.opcheck", "2.4", hasattr(torch.library, "opcheck"), ""),
)  # fmt: skip
"""What is asked of torch, by the version from which it is there."""
