"""An eval-mode copy of a module that owns no weights: its parameters and buffers are the caller's storage."""

import copy
from collections.abc import Collection, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastadv._torch import COMPILED_MODULE, NormBase, copy_all_, held_by
from fastadv.engine.copying.closures import copy_functions, inside, reachable
from fastadv.engine.copying.inside import has_modes, keep_inside, stays_in_training
from fastadv.engine.copying.strays import may_stray
from fastadv.errors import InputError

ADVICE = "pass a plain function of x instead, for instance `lambda x: model(x)` with the model in eval mode"

PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
Pairs = list[tuple[Tensor, Tensor]]  # of tensors that share storage: the model's, the copy's


def alias(tensor: Tensor) -> Tensor:
    """Return the same storage, detached; of an inference tensor a copy, which can be part of a graph."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(model, COMPILED_MODULE, None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class Bound(nn.Module):
    """A bound method of a module, or a partial of a module or of such a method, as a module."""

    def __init__(self, module: nn.Module, call: Any) -> None:
        super().__init__()
        self.module, self.call = module, call
        self.training = module.training

    def forward(self, x: Tensor, **more: Tensor) -> Any:
        return self.call(x, **more)


def as_module(model: object) -> nn.Module | None:
    """Return `model` as a module without wrappers; None for a function, of which nothing is known."""
    if isinstance(model, nn.Module):
        return unwrap(model)
    owner = model
    while isinstance(owner, partial):
        owner = owner.func
    owner = getattr(owner, "__self__", owner)
    if not isinstance(owner, nn.Module):
        return None
    return Bound(owner, model)


def twin(model: nn.Module, follow: bool = True, apart: bool = False) -> nn.Module:
    """Return a copy of `model` in eval mode that shares its parameters and asks for no weight gradient.

    Functions that hold parts of `model`, such as a `forward` of the instance, are copied with it; what cannot
    be copied, such as a lock, is shared. So are statistics, and with `follow` all buffers, also for what a
    forward writes. With `apart` a write into tensors of the one does not count as one into the other's.
    """
    with torch.inference_mode(False), torch.no_grad():
        parts = list(reachable(model))
        modules = [part for part in parts if isinstance(part, nn.Module)]
        # a `train` method of the user's own may write weights, so it meets copies of them first
        careful = any(type(module).train is not nn.Module.train for module in modules)
        memo: dict[int, Any] = {}
        shared = _share(parts, follow, careful or apart, memo)
        try:
            copied = _copy(model, parts, memo)
        except Exception:
            memo = {}  # what a failed copy has left in it belongs to no model
            shared = _share(parts, follow, careful or apart, memo)
            memo |= {id(part): part for part in _refused(parts, memo)}
            try:
                copied = _copy(model, parts, memo)
            except Exception as error:
                raise InputError(
                    f"freeze: expected a module that copy.deepcopy can copy, got {type(model).__name__} "
                    f"({error}); {ADVICE}"
                ) from error
        record: list[object] = memo.get(id(memo), [])  # deepcopy keeps alive what it has copied
        originals = {id(part): part for part in (*modules, *record) if isinstance(part, nn.Module)}
        _check_apart(model, copied, originals)
        shared += [
            (part, memo[id(part)])
            for part in record
            if isinstance(part, nn.Parameter) or (follow and isinstance(part, Tensor))
        ]
        own_parts = {id(part) for part in copied.modules()}
        pairs = [(part, memo[key]) for key, part in originals.items() if key in memo]
        unregistered = [(part, own) for part, own in pairs if id(own) not in own_parts]
        for part, own in ((model, copied), *unregistered):
            shared += _unrecorded(part, own, follow, memo)
        copied.eval()
        for part in filter(stays_in_training, copied.modules()):
            part.training = True
        # a layer that stays in training mode would write into the model's statistics
        written = {
            id(buffer)
            for part in copied.modules()
            if isinstance(part, NormBase) and part.training
            for buffer in part.buffers(recurse=False)
        }
        for theirs, own in shared:
            if id(own) in written:
                continue
            if careful and not bool(((theirs == own) | (theirs != theirs)).all()):
                raise InputError(
                    "freeze: expected a `train` method that leaves the weights as they are, got one of "
                    f"{type(model).__name__} that changes them; call model.eval() before"
                )
            if own.data_ptr() != theirs.data_ptr() and not theirs.is_inference():
                own.data = theirs.data
            own.requires_grad_(False)
        for own in copied.parameters():  # one by one: a scripted module has no requires_grad_
            own.requires_grad_(False)
        for part, own_part in pairs:
            same_products(part, own_part)
    untamed = [own for _, own in unregistered if own.training and has_modes(own)]
    keep_inside(copied, originals.values(), untamed, doubtful=may_stray(parts))
    return copied


def _copy(model: nn.Module, parts: list[object], memo: dict[int, Any]) -> nn.Module:
    fill = copy_functions(parts, memo)
    copied = copy.deepcopy(model, memo)
    fill()
    return copied


def _refused(parts: list[object], memo: dict[int, Any]) -> Iterator[object]:
    """Objects that deepcopy refuses and a copy can share: locks, open files, writers of logs."""
    for part in parts:
        if isinstance(part, nn.Module | Tensor | FunctionType | MethodType | partial | Collection):
            continue
        try:
            copy.deepcopy(part, dict(memo))
        except Exception:  # a copy runs code of the object, which may raise anything
            yield part


def _share(parts: list[object], follow: bool, apart: bool, memo: dict[int, Any]) -> Pairs:
    """Enter the tensors of the copy into deepcopy's `memo`; returns the pairs that are to share storage."""
    shared: Pairs = []
    for module in parts:
        # activations that a hook has stored, and the weights that weight_norm computes; deepcopy refuses them
        if isinstance(module, Tensor) and not module.is_leaf:
            memo[id(module)] = module.detach()
        if not isinstance(module, nn.Module):
            continue
        for parameter in module.parameters(recurse=False):
            if is_lazy(parameter):
                raise InputError(
                    "freeze: expected initialized parameters, got a lazy module; run the model once"
                )
            if id(parameter) not in memo:
                own = parameter.clone() if apart else alias(parameter)
                memo[id(parameter)] = nn.Parameter(own, requires_grad=False)
                shared.append((parameter, memo[id(parameter)]))
        for buffer in module.buffers(recurse=False):
            if id(buffer) in memo:
                continue
            if follow or normalizes(module):
                memo[id(buffer)] = buffer.clone() if apart else alias(buffer)
                shared.append((buffer, memo[id(buffer)]))
            else:
                memo[id(buffer)] = buffer.clone()
    return shared


def same_products(part: nn.Module, copied: nn.Module) -> None:
    """Let the copy of an attention layer ask for the gradients that decide how torch multiplies."""
    if isinstance(part, nn.MultiheadAttention):
        for name in PROJECTIONS:
            theirs, own = held_by(part)[0].get(name), held_by(copied)[0].get(name)
            if theirs is not None and own is not None:
                own.requires_grad_(theirs.requires_grad)


def normalizes(module: nn.Module) -> bool:
    """Return whether the buffers are statistics which torch's own forward only reads in eval mode."""
    if isinstance(module, NormBase):
        return type(module).forward.__module__.startswith("torch.") and "forward" not in vars(module)
    scripted = getattr(module, "original_name", "")
    return scripted.startswith(("BatchNorm", "SyncBatchNorm", "InstanceNorm"))


def _check_apart(model: nn.Module, copied: nn.Module, originals: dict[int, nn.Module]) -> None:
    theirs = originals.keys() | {id(parameter) for parameter in model.parameters()}
    if any(id(part) in theirs for part in (*copied.modules(), *copied.parameters())):
        raise InputError(
            f"freeze: expected copy.deepcopy to copy the module, got {type(model).__name__} sharing parts "
            f"with its copy; {ADVICE}"
        )


def _unrecorded(model: nn.Module, copied: nn.Module, follow: bool, memo: dict[int, Any]) -> Pairs:
    """Return the pairs to share that deepcopy did not see, in scripts or a `__deepcopy__`."""
    known = {id(value) for value in memo.values()}
    if all(id(tensor) in known for tensor in (*copied.parameters(), *copied.buffers())):
        return []
    theirs, own = ({name: tensor.shape for name, tensor in _tensors(part)} for part in (model, copied))
    if theirs != own:
        raise InputError(
            f"freeze: expected a copy with the same tensors, got others from the __deepcopy__ of a part of "
            f"{type(model).__name__}; {ADVICE}"
        )
    kept = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if follow or normalizes(module):
            kept |= {f"{prefix}.{name}".strip(".") for name, _ in module.named_buffers(recurse=False)}
    copies = dict(_tensors(copied))
    return [(tensor, copies[name]) for name, tensor in _tensors(model) if name in kept]


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    parameters, buffers = module.named_parameters, module.named_buffers
    return [*parameters(remove_duplicate=False), *buffers(remove_duplicate=False)]


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Return the floating dtype of the parameters; None where there is not exactly one."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of the first parameter or buffer; None for a module without either."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), None)


def take_values(model: nn.Module, copied: nn.Module) -> dict[int, Tensor]:
    """Write the model's values into a copy made `apart`; return its tensors by the ids of the copy's."""
    # looked up each time, since a change of precision replaces buffers; by all their names, since it does so
    # one by one, and a `__deepcopy__` may part tied weights
    own, origin = dict(_tensors(copied)), dict[int, Tensor]()
    pairs = dict[tuple[torch.dtype, torch.dtype], list[tuple[Tensor, Tensor]]]()
    for name, theirs in _tensors(model):
        if id(own[name]) not in origin:
            origin[id(own[name])] = theirs
            pairs.setdefault((own[name].dtype, theirs.dtype), []).append((own[name], theirs))
    for several in pairs.values():  # older versions of torch take all for what the first are
        copy_all_(*zip(*several, strict=True))
    return origin


def registers_all(module: nn.Module) -> bool:
    """Return whether it leads to no parameter or module but its own, as one in a plain list would be."""
    own = {id(part) for part in (*module.modules(), *module.parameters())}
    kinds = (nn.Module, nn.Parameter)
    led = (each for part in reachable(module) for each in (part, *inside(part)))
    return all(id(part) in own for part in led if isinstance(part, kinds))
