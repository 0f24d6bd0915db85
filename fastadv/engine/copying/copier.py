"""A copy of a model in eval mode that owns no weights: its parameters are the caller's storage.

copy.deepcopy makes it, to which each tensor stands for its copy; modules are filled one by one, a few
microseconds each. Those that copy themselves, as scripted ones do, are given the caller's storage afterwards.
Functions that hold parts of the model, such as a `forward` or a hook of the instance, are copied with it.
"""

import copy
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._torch import COMPILED_FUNCTION, NormBase, copy_all_, held_by
from fastadv.engine.copying.reach import content, holds_module, reachable
from fastadv.engine.first_pass import bar
from fastadv.errors import InputError


class Deferred:
    """A callable whose target is set after the model has been copied."""

    target: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)


def copy_functions(
    values: list[object], memo: dict[int, Any], copied: Callable[[Any], Any]
) -> Callable[[], None]:
    """Enter copies of functions that lead to a module into deepcopy's `memo`; return what fills them in."""
    # Copies share code, globals and variables that lead to no module; a compiled one is copied as written
    functions = [value for value in values if isinstance(value, FunctionType) and holds_module(value)]
    cells: dict[int, tuple[CellType, CellType]] = {}
    deferred: list[tuple[Deferred, Callable[..., Any]]] = []
    plain: list[tuple[FunctionType, FunctionType]] = []
    for function in functions:
        if COMPILED_FUNCTION in vars(function):
            memo[id(function)] = Deferred()
            deferred.append((memo[id(function)], vars(function)[COMPILED_FUNCTION]))
            continue
        closure = []
        for cell in function.__closure__ or ():
            if id(cell) not in cells and holds_module(content(cell)):
                cells[id(cell)] = cell, CellType()
            closure.append(cells[id(cell)][1] if id(cell) in cells else cell)
        twin = FunctionType(function.__code__, function.__globals__, function.__name__, None, tuple(closure))
        memo[id(function)] = twin
        plain.append((function, twin))
    for method in values:
        # deepcopy gives a bound method the copy of its object, and leaves its function
        if isinstance(method, MethodType) and id(method.__func__) in memo:
            memo[id(method)] = Deferred()
            deferred.append((memo[id(method)], partial(memo[id(method.__func__)], method.__self__)))

    def with_modules(value: Any) -> Any:
        return copied(value) if holds_module(value) else value

    def fill() -> None:
        for theirs, own_cell in cells.values():
            own_cell.cell_contents = copied(theirs.cell_contents)
        for function, twin in plain:
            twin.__defaults__ = with_modules(function.__defaults__)
            twin.__kwdefaults__ = with_modules(function.__kwdefaults__)
            vars(twin).update({name: with_modules(value) for name, value in vars(function).items()})
        for wrapper, target in deferred:
            wrapper.target = copied(target)

    return fill


ADVICE = "pass a plain function of x instead, for instance `lambda x: model(x)` with the model in eval mode"
LAZY = "freeze: expected initialized parameters, got a lazy module; run the model once"
# Attributes of every module: its mode, tensors, parts and hooks
OWN = frozenset(vars(nn.Module()))
HOOKS = tuple(name for name in OWN if "hook" in name and name != "_is_full_backward_hook")
HOLDS = (*HOOKS, "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
FIXED = frozenset({type(None), bool, int, float, complex, str, bytes, type, BuiltinFunctionType, torch.Size})
FIXED |= {torch.dtype, torch.device, torch.layout, torch.memory_format}


def eval_copy(
    model: nn.Module, follow: bool | None = True, apart: bool = False, gradients: bool = False
) -> nn.Module:
    """Return a copy of `model` in eval mode that shares its parameters and asks for no weight gradient."""
    # buffers are shared with `follow`, with False those that are statistics, with None none; with `apart` a
    # write into the one does not count as one into the other; with `gradients` weights ask for theirs
    with torch.inference_mode(False), torch.no_grad():
        return _Copy(model, follow, apart, gradients).result


class _Copy:
    """The copy `made` of a model, while it is made."""

    def __init__(self, model: nn.Module, follow: bool | None, apart: bool, gradients: bool) -> None:
        self.model, self.follow, self.apart, self.gradients = model, follow, apart, gradients
        parts = list(model.modules())
        attributes = {part: _attributes(part) for part in parts}
        held = list(reachable([*attributes.values()], but=set(map(id, parts))))
        attributes |= {part: _attributes(part) for part in held if isinstance(part, nn.Module)}
        modules = [*attributes]
        scripted = {part for part in modules if isinstance(part, torch.jit.ScriptModule)}
        opaque = [part for part in modules if part in scripted or hasattr(type(part), "__deepcopy__")]
        within = {inner for part in opaque for inner in part.modules()}
        filled = [part for part in modules if part not in within]
        self.memo: dict[int, Any] = {id(part): object.__new__(type(part)) for part in filled}
        self.alive: list[Any] = []  # what deepcopy has copied, so that nothing else gets an id of its
        self.shared: list[tuple[Tensor, Tensor]] = []  # tensors of one storage: the model's, the copy's
        for part in modules:
            if part not in scripted:  # those make their tensors at each look
                self._share(part)
        for value in held:
            if isinstance(value, Tensor) and not value.is_leaf:
                # activations that a hook has stored, and the weights that weight_norm computes
                self.memo[id(value)] = value.detach()
            elif isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and follow):
                self._enter(value, gradients)
        fill = copy_functions(held, self.memo, lambda value: self._copied([value])[0])
        self.result: nn.Module
        self.result, *copied = self._copied([model, *(attributes[part] for part in filled)])
        fill()
        for part, twin in zip(filled, copied, strict=True):
            empty = {name: type(vars(part)[name])() for name in HOLDS}
            vars(self.memo[id(part)]).update(vars(part) | empty | twin)
        if opaque:
            self._check_apart(modules)
        for part in opaque:
            self._adopt(part)
        self._to_eval(modules)
        bar(self.result, model)

    def _share(self, module: nn.Module) -> None:
        """Enter the tensors that a module holds into the memo."""
        parameters, buffers, _ = held_by(module)
        # torch chooses the products of attention by whether its weights want a gradient
        gradients = self.gradients or isinstance(module, nn.MultiheadAttention)
        for tensor in (*parameters.values(), *buffers.values()):
            if isinstance(tensor, nn.Parameter) or (tensor is not None and self._follows(module)):
                self._enter(tensor, gradients)
            elif tensor is not None:
                self.memo.setdefault(id(tensor), tensor.detach().clone())

    def _follows(self, module: nn.Module) -> bool:
        """Return whether the copy shares the module's buffers."""
        return normalizes(module) if self.follow is False else bool(self.follow)

    def _enter(self, tensor: Tensor, gradients: bool) -> None:
        """Enter what shares its memory; of an inference tensor a copy, which can be part of a graph."""
        if id(tensor) in self.memo:
            return
        twin = tensor.data if self.apart else tensor.detach()
        twin = twin.clone() if tensor.is_inference() else twin
        if isinstance(tensor, nn.Parameter):
            twin = nn.Parameter(twin, requires_grad=gradients and tensor.requires_grad)
        self.memo[id(tensor)] = twin
        self.shared.append((tensor, twin))

    def _copied(self, values: list[Any]) -> Any:
        """Return copy.deepcopy(values); what that refuses is shared."""
        memo = dict(self.memo)  # what a failed copy has left in it belongs to no model
        try:
            copies = copy.deepcopy(values, memo)
        except Exception:
            memo = self.memo | {id(value): value for value in _refused(values, self.memo)}
            try:
                copies = copy.deepcopy(values, memo)
            except Exception as error:  # a copy runs code of the object, which may raise anything
                raise InputError(
                    f"freeze: expected a module that copy.deepcopy can copy, got {type(self.model).__name__} "
                    f"({error}); {ADVICE}"
                ) from error
        self.alive.append(memo.pop(id(memo), None))
        self.memo = memo
        return copies

    def _adopt(self, part: nn.Module) -> None:
        """Share the tensors of a module that has copied itself, with what it holds."""
        copied = self.memo.get(id(part))
        if copied is None:  # by a module around it
            return
        mine, theirs = dict(_tensors(copied)), dict(_tensors(part))
        if {name: t.shape for name, t in mine.items()} != {name: t.shape for name, t in theirs.items()}:
            raise InputError(
                "freeze: expected a copy with the same tensors, got others from the __deepcopy__ of a part "
                f"of {type(self.model).__name__}; {ADVICE}"
            )
        names = {name for name, _ in part.named_parameters(remove_duplicate=False)}
        for prefix, module in part.named_modules(remove_duplicate=False):
            buffers = module.named_buffers(recurse=False) if self._follows(module) else ()
            names |= {f"{prefix}.{name}".strip(".") for name, _ in buffers}
        for name in names:
            if mine[name].data_ptr() != theirs[name].data_ptr() and not theirs[name].is_inference():
                mine[name].data = theirs[name].data
                self.shared.append((theirs[name], mine[name]))
        for weight in copied.parameters():  # one by one: a scripted module has no requires_grad_
            weight.requires_grad_(self.gradients and weight.requires_grad)

    def _check_apart(self, modules: list[nn.Module]) -> None:
        theirs = {*map(id, modules), *map(id, self.model.parameters())}
        if not theirs.isdisjoint(map(id, (*self.result.modules(), *self.result.parameters()))):
            raise InputError(
                "freeze: expected copy.deepcopy to copy the module, got "
                f"{type(self.model).__name__} sharing parts with its copy; {ADVICE}"
            )

    def _to_eval(self, modules: list[nn.Module]) -> None:
        """Call `eval`; one of the user's own may write weights, so it meets copies of them."""
        setters = [part for part in modules if _sets_mode(part)]
        for _, tensor in self.shared if setters else ():
            tensor.data = tensor.data.clone()
        self.result.eval()
        for theirs, tensor in self.shared if setters else ():
            if not bool(((theirs == tensor) | (theirs != theirs)).all()):
                raise InputError(
                    "freeze: expected a `train` method that leaves the weights as they are, got one of "
                    f"{type(self.model).__name__} that changes them; call model.eval() before"
                )
            if not theirs.is_inference():
                tensor.data = theirs.data
        for part in self.result.modules():
            if isinstance(part, NormBase) and part.training:  # it would write into the model's statistics
                for buffer in part.buffers(recurse=False):
                    buffer.data = buffer.data.clone()


def _attributes(part: nn.Module) -> dict[str, Any]:
    """Return what a module holds by name, without what leads nowhere."""
    return {
        name: value
        for name, value in vars(part).items()
        if not FIXED.issuperset(map(type, value) if type(value) is tuple else (type(value),))
        and (name not in OWN or value)
    }


def _sets_mode(part: nn.Module) -> bool:
    """Return whether it has a `train` or `eval` of its own."""
    kind = type(part)
    inherited = (kind.train, kind.eval) == (nn.Module.train, nn.Module.eval)
    return not (inherited and vars(part).keys().isdisjoint(("train", "eval")))


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


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    parameters, buffers = module.named_parameters, module.named_buffers
    return [*parameters(remove_duplicate=False), *buffers(remove_duplicate=False)]


def take_values(copied: nn.Module, model: nn.Module) -> None:
    """Write the model's values into a copy made `apart`."""
    # looked up each time, by all their names: a change of precision replaces buffers one by one, and a
    # `__deepcopy__` may part tied weights
    held, origin = dict(_tensors(copied)), dict[Tensor, Tensor]()
    for name, theirs in _tensors(model):
        origin.setdefault(held[name], theirs)
    pairs = dict[tuple[torch.dtype, torch.dtype], list[tuple[Tensor, Tensor]]]()
    for mine, theirs in origin.items():
        if mine.data_ptr() != theirs.data_ptr():  # what lies in one memory follows by itself
            pairs.setdefault((mine.dtype, theirs.dtype), []).append((mine, theirs))
    for several in pairs.values():  # older versions of torch take all for what the first are
        copy_all_(*zip(*several, strict=True))


def registers_all(module: nn.Module) -> bool:
    """Return whether it leads to no parameter or module but its own, as one in a plain list would be."""
    registered = {id(part) for part in (*module.modules(), *module.parameters())}
    parts = (part for part in reachable(module) if isinstance(part, nn.Module | nn.Parameter))
    return all(id(part) in registered for part in parts)
