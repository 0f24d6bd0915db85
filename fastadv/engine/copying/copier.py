"""A copy of a model in eval mode that owns no weights: its parameters are the caller's storage.

Modules are copied one by one, a few microseconds each; what else they hold by copy.deepcopy, to which each
module, parameter and function stands for its copy. A model with parts that copy themselves, as scripted ones
do, is copied by copy.deepcopy as a whole.
"""

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterator
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastadv._torch import NormBase, copy_all_, held_by
from fastadv.engine.copying.first_pass import bar
from fastadv.engine.copying.functions import copy_functions
from fastadv.engine.copying.modes import stays_in_training
from fastadv.engine.copying.reach import reachable
from fastadv.errors import InputError

ADVICE = "pass a plain function of x instead, for instance `lambda x: model(x)` with the model in eval mode"
LAZY = "freeze: expected initialized parameters, got a lazy module; run the model once"
# what every module holds: its mode, tensors, parts and hooks
OWN = frozenset(vars(nn.Module()))
HOOKS = tuple(name for name in OWN if "hook" in name and name != "_is_full_backward_hook")
FIXED = frozenset({type(None), bool, int, float, complex, str, bytes, type, BuiltinFunctionType, torch.Size})
FIXED |= {torch.dtype, torch.device, torch.layout, torch.memory_format}
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
Pairs = list[tuple[Tensor, Tensor]]  # of tensors that share storage: the model's, the copy's


def eval_copy(
    model: nn.Module, follow: bool | None = True, apart: bool = False, gradients: bool = False
) -> nn.Module:
    """Return a copy of `model` in eval mode that shares its parameters and asks for no weight gradient.

    Functions that hold parts of `model`, such as a `forward` of the instance, are copied with it; what cannot
    be copied, such as a lock, is shared. So are all buffers, with `follow` False those that are statistics,
    and with None none. With `apart` a write into tensors of the one does not count as one into the other's;
    with `gradients` weights ask for theirs as the model's do.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _Copy(model, follow, apart, gradients).made


class _Copy:
    """The copy `made` of a model, while it is made."""

    def __init__(self, model: nn.Module, follow: bool | None, apart: bool, gradients: bool) -> None:
        self.model, self.follow, self.apart, self.gradients = model, follow, apart, gradients
        parts = list(model.modules())
        named = list(map(_attributes, parts))
        values = [value for each in named for value in each.values() if not _is_flat(value)]
        held = list(reachable(values, but={id(part) for part in parts})) if values else []
        others = [each for each in held if isinstance(each, nn.Module)]
        modules, named = [*parts, *others], [*named, *map(_attributes, others)]
        kinds: set[Any] = {*map(type, modules)}
        # a `train` or `eval` of the user's own may write weights, so it meets copies of them first
        self.careful = any((kind.train, kind.eval) != (nn.Module.train, nn.Module.eval) for kind in kinds)
        self.careful |= any(not vars(part).keys().isdisjoint(("train", "eval")) for part in modules)
        self.memo: dict[int, Any] = {}
        self.alive: list[Any] = []  # what deepcopy has copied, so that nothing else gets an id of its
        self.shared: Pairs = []
        for module in modules:
            if not isinstance(module, torch.jit.ScriptModule):  # which makes its tensors at each look
                self._share(module)
        for value in held:
            if isinstance(value, nn.Parameter) or (follow and isinstance(value, Tensor) and value.is_leaf):
                self._enter(value)
            elif isinstance(value, Tensor) and not value.is_leaf:
                # activations that a hook has stored, and the weights that weight_norm computes
                self.memo[id(value)] = value.detach()
        whole = any(hasattr(kind, "__deepcopy__") for kind in kinds)
        if not whole:
            self.memo |= {id(part): object.__new__(type(part)) for part in modules}
        fill = copy_functions(held, self.memo, self._copied)
        self.made: nn.Module = self._copied(model)
        fill()
        if whole:
            _check_apart(model, self.made, modules)
            for part in (model, *others):
                self.shared += self._unrecorded(part)
        else:
            for part, attributes in zip(modules, named, strict=True):
                self._fill(part, attributes)
        own = list(self.made.modules())
        if whole or self.careful:
            self._settle(own)
        else:
            for part in own:
                vars(part)["training"] = False
        for part in own:
            if isinstance(part, nn.RNNBase) and stays_in_training(part):
                part.training = True
        for part in modules:
            if isinstance(part, nn.MultiheadAttention) and id(part) in self.memo:
                _same_products(part, self.memo[id(part)])
        bar(self.made, model, *others)

    def _share(self, module: nn.Module) -> None:
        """Enter the tensors that a module holds into the memo."""
        parameters, buffers, _ = held_by(module)
        for parameter in parameters.values():
            if parameter is not None:
                self._enter(parameter)
        for buffer in buffers.values():
            if buffer is not None and id(buffer) not in self.memo:
                if self.follow or (self.follow is False and normalizes(module)):
                    self._enter(buffer)
                else:
                    self.memo[id(buffer)] = buffer.detach().clone()

    def _enter(self, tensor: Tensor) -> None:
        """Enter what shares its memory; of an inference tensor a copy, which can be part of a graph."""
        if id(tensor) in self.memo:
            return
        if is_lazy(tensor):
            raise InputError(LAZY)
        if tensor.is_inference() or self.careful:
            own = tensor.detach().clone()
        else:
            own = tensor.data if self.apart else tensor.detach()
        if isinstance(tensor, nn.Parameter):
            own = nn.Parameter(own, requires_grad=self.gradients and tensor.requires_grad)
        self.memo[id(tensor)] = own
        self.shared.append((tensor, own))

    def _copied(self, value: Any) -> Any:
        """Return copy.deepcopy(value); what that refuses is shared."""
        if id(value) in self.memo:
            return self.memo[id(value)]
        memo = dict(self.memo)  # what a failed copy has left in it belongs to no model
        try:
            made = copy.deepcopy(value, memo)
        except Exception:
            memo = self.memo | {id(each): each for each in _refused(value, self.memo)}
            try:
                made = copy.deepcopy(value, memo)
            except Exception as error:  # a copy runs code of the object, which may raise anything
                raise InputError(
                    f"freeze: expected a module that copy.deepcopy can copy, got {type(self.model).__name__} "
                    f"({error}); {ADVICE}"
                ) from error
        self.alive.append(memo.pop(id(memo), None))
        self.memo.update(memo)
        return made

    def _fill(self, part: nn.Module, attributes: dict[str, Any]) -> None:
        """Let the copy of a module hold what that holds, of the `attributes` copies."""
        own = vars(self.memo[id(part)])
        own.update(vars(part))
        for name in HOOKS:
            own[name] = OrderedDict()
        for name, value in attributes.items():
            if _is_flat(value):  # one copy of what several parts may hold
                own[name] = self.memo.setdefault(id(value), value.copy())
            else:
                own[name] = self._copied(value)
        own["_non_persistent_buffers_set"] = {*own["_non_persistent_buffers_set"]}
        for name, members in zip(("_parameters", "_buffers", "_modules"), held_by(part), strict=True):
            own[name] = {key: None if each is None else self.memo[id(each)] for key, each in members.items()}

    def _settle(self, parts: list[nn.Module]) -> None:
        """Call `eval`, and share what was copied since the model's own code might have written it."""
        self.made.eval()
        # a layer that stays in training mode would write into the model's statistics
        written = {
            id(buffer)
            for part in parts
            if isinstance(part, NormBase) and part.training
            for buffer in part.buffers(recurse=False)
        }
        for theirs, own in self.shared:
            if id(own) in written:
                continue
            if self.careful and not bool(((theirs == own) | (theirs != theirs)).all()):
                raise InputError(
                    "freeze: expected a `train` method that leaves the weights as they are, got one of "
                    f"{type(self.model).__name__} that changes them; call model.eval() before"
                )
            if own.data_ptr() != theirs.data_ptr() and not theirs.is_inference():
                own.data = theirs.data
        for own in self.made.parameters():  # one by one: a scripted module has no requires_grad_
            own.requires_grad_(self.gradients and own.requires_grad)

    def _unrecorded(self, model: nn.Module) -> Pairs:
        """Return the pairs to share that deepcopy did not see, in scripts or a `__deepcopy__`."""
        copied, known = self.memo.get(id(model)), {id(value) for value in self.memo.values()}
        if copied is None or all(id(tensor) in known for _, tensor in _tensors(copied)):
            return []
        own, theirs = dict(_tensors(copied)), dict(_tensors(model))
        if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in theirs.items()}:
            raise InputError(
                "freeze: expected a copy with the same tensors, got others from the __deepcopy__ of a part "
                f"of {type(model).__name__}; {ADVICE}"
            )
        kept = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        for prefix, module in model.named_modules(remove_duplicate=False):
            if self.follow or (self.follow is False and normalizes(module)):
                kept |= {f"{prefix}.{name}".strip(".") for name, _ in module.named_buffers(recurse=False)}
        return [(tensor, own[name]) for name, tensor in theirs.items() if name in kept]


def _attributes(part: nn.Module) -> dict[str, Any]:
    """Return the hooks and attributes of a module by name, without values that lead nowhere and stay."""
    return {
        name: value
        for name, value in vars(part).items()
        if type(value) not in FIXED and (value and name in HOOKS if name in OWN else not _is_fixed(value))
    }


def _is_fixed(value: object) -> bool:
    if type(value) is tuple:
        return FIXED.issuperset(map(type, value))
    if type(value) is FunctionType:
        return not (value.__closure__ or value.__defaults__ or value.__kwdefaults__ or vars(value))
    return isinstance(value, type | Enum)


def _is_flat(value: Any) -> bool:
    """Return whether it is a list, dictionary or set of values that lead nowhere."""
    if type(value) is dict:
        return FIXED.issuperset(map(type, value.values()))
    return type(value) in (list, set) and FIXED.issuperset(map(type, value))


def normalizes(module: nn.Module) -> bool:
    """Return whether the buffers are statistics which torch's own forward only reads in eval mode."""
    if isinstance(module, NormBase):
        return type(module).forward.__module__.startswith("torch.") and "forward" not in vars(module)
    scripted = getattr(module, "original_name", "")
    return scripted.startswith(("BatchNorm", "SyncBatchNorm", "InstanceNorm"))


def _refused(value: object, memo: dict[int, Any]) -> Iterator[object]:
    """Objects that deepcopy refuses and a copy can share: locks, open files, writers of logs."""
    for part in reachable(value):
        if isinstance(part, nn.Module | Tensor | FunctionType | MethodType | partial | Collection):
            continue
        try:
            copy.deepcopy(part, dict(memo))
        except Exception:
            yield part


def _same_products(part: nn.Module, copied: nn.Module) -> None:
    """Let the copy of an attention layer ask for the gradients that decide how torch multiplies."""
    for name in PROJECTIONS:
        theirs, own = held_by(part)[0].get(name), held_by(copied)[0].get(name)
        if theirs is not None and own is not None:
            own.requires_grad_(theirs.requires_grad)


def _check_apart(model: nn.Module, copied: nn.Module, modules: list[nn.Module]) -> None:
    theirs = {*map(id, modules), *map(id, model.parameters())}
    if any(id(part) in theirs for part in (*copied.modules(), *copied.parameters())):
        raise InputError(
            f"freeze: expected copy.deepcopy to copy the module, got {type(model).__name__} sharing parts "
            f"with its copy; {ADVICE}"
        )


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    parameters, buffers = module.named_parameters, module.named_buffers
    return [*parameters(remove_duplicate=False), *buffers(remove_duplicate=False)]


def origin_of(copied: nn.Module, model: nn.Module) -> dict[int, Tensor]:
    """Return the model's tensors by the ids of those of its copy."""
    # looked up each time, by all their names: a change of precision replaces buffers one by one, and a
    # `__deepcopy__` may part tied weights
    own, origin = dict(_tensors(copied)), dict[int, Tensor]()
    for name, theirs in _tensors(model):
        origin.setdefault(id(own[name]), theirs)
    return origin


def take_values(copied: nn.Module, model: nn.Module) -> dict[int, Tensor]:
    """Write the model's values into a copy made `apart`; return `origin_of` it."""
    origin, held = origin_of(copied, model), {id(tensor): tensor for _, tensor in _tensors(copied)}
    pairs = dict[tuple[torch.dtype, torch.dtype], list[tuple[Tensor, Tensor]]]()
    for key, theirs in origin.items():
        own = held[key]
        if own.data_ptr() != theirs.data_ptr():  # what lies in one memory follows by itself
            pairs.setdefault((own.dtype, theirs.dtype), []).append((own, theirs))
    for several in pairs.values():  # older versions of torch take all for what the first are
        copy_all_(*zip(*several, strict=True))
    return origin


def registers_all(module: nn.Module) -> bool:
    """Return whether it leads to no parameter or module but its own, as one in a plain list would be."""
    own = {id(part) for part in (*module.modules(), *module.parameters())}
    return all(id(part) in own for part in reachable(module) if isinstance(part, nn.Module | nn.Parameter))
