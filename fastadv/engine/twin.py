"""An eval-mode copy of a module that owns no weights: its parameters and buffers are the caller's storage."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastadv.errors import InputError

ADVICE = "pass a plain function of x instead, for instance `lambda x: model(x)` with the model in eval mode"


def _alias(tensor: Tensor) -> Tensor:
    """The same storage, outside the caller's graph. Inference tensors cannot enter a graph, so they are copied."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile: they hold locks and process groups."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def twin(model: nn.Module, follow: bool = True) -> nn.Module:
    """A copy of `model` in eval mode that shares its parameters and asks for no weight gradient.

    The copy has its own modules, flags and hooks lists, so nothing done to it reaches `model`. BatchNorm statistics
    are shared, and with `follow` every other buffer too: then what is trained into `model` is seen by the copy, and
    what its forward writes into its buffers in eval mode is written into the model's. Without, they are copied.

    Raises InputError where the module cannot be copied, or is lazy and has never been run.
    """
    with torch.inference_mode(False), torch.no_grad():
        memo: dict[int, object] = {}
        for parameter in model.parameters():
            if is_lazy(parameter):
                raise InputError(
                    "freeze: expected initialised parameters, got a lazy module; run the model once on a batch first"
                )
            memo[id(parameter)] = nn.Parameter(_alias(parameter), requires_grad=False)
        for module in model.modules():
            for buffer in module.buffers(recurse=False):
                shared = follow or isinstance(module, nn.modules.batchnorm._BatchNorm)
                memo[id(buffer)] = buffer if shared and not buffer.is_inference() else buffer.clone()
            for value in vars(module).values():
                # weight_norm and its like keep computed tensors as attributes, which deepcopy refuses
                if isinstance(value, Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach()
        try:
            copied = copy.deepcopy(model, memo)
        except Exception as error:
            raise InputError(
                f"freeze: expected a module that copy.deepcopy can copy, got {type(model).__name__} ({error}); {ADVICE}"
            ) from error
    theirs = {id(module) for module in model.modules()} | {id(parameter) for parameter in model.parameters()}
    if any(id(part) in theirs for part in (*copied.modules(), *copied.parameters())):
        raise InputError(
            f"freeze: expected copy.deepcopy to copy the module, got {type(model).__name__} sharing parts with its copy; {ADVICE}"
        )
    for own in copied.parameters():  # one by one: a scripted module has no requires_grad_
        own.requires_grad_(False)
    return copied.eval()


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The one floating dtype of the parameters, to which inputs are cast; None where there is none or more than one."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def device_of(model: nn.Module) -> torch.device | None:
    """The device of the first parameter or buffer; None for a module without either."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), None)
