"""BPDA: modules that hide their gradients have that of something else; values stay, to the last bit."""

import copy
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._checks import meant
from fastadv._torch import version
from fastadv.engine.copy import bar
from fastadv.engine.copy import copied as copied_of
from fastadv.engine.module import is_replaced, label, unwrap
from fastadv.errors import InputError, NoGradientError

IDENTITY = "identity"
# A function of what a module is called with; IDENTITY for the first tensor of that
Gradient = Callable[..., Tensor] | str


class _Value(torch.autograd.Function):
    """The value of one tensor in the graph of another: `graph + (value - graph).detach()`, not rounded."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, graph: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, gradients[0]


def replace_gradient(module: nn.Module, gradient: Gradient, name: str) -> None:
    """Let calls of `module`, called `name`, have the gradient of `gradient`, without one of their own."""
    part: Any = module
    if not is_replaced(part):
        part.bpda_given, part.forward = part.forward, _Replaced(part).forward
    else:
        del part.bpda  # torch lets nothing but a module follow a module
    part.bpda, part.bpda_name = gradient, name


class _Replaced:
    """The forward of a module with another gradient: an object of its own, so that pickle finds it again."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Replaced":
        return _Replaced(copy.deepcopy(self.module, memo))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _forward(self.module, *args, **kwargs)


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    name = repr(self.bpda_name)
    tensors = [tensor for tensor in (*args, *kwargs.values()) if isinstance(tensor, Tensor)]
    if not tensors:
        raise InputError(
            f"bpda: expected {name} to be called with a tensor, got none; match a module that is"
        )
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
        return _checked_value(self, self.bpda_given(*args, **kwargs), tensors[0])
    # a copy of the first, which it must not write into: the other gradient is taken there
    detached: dict[int, Any] = {id(tensor): tensor.detach() for tensor in tensors}
    first = detached[id(tensors[0])] = tensors[0].detach().clone()
    before = version(first)
    with torch.no_grad():
        passed = [detached.get(id(value), value) for value in (*args, *kwargs.values())]
        named = dict(zip(kwargs, passed[len(args) :], strict=True))
        value = self.bpda_given(*passed[: len(args)], **named)
    _checked_value(self, value, tensors[0])
    if version(first) != before:
        raise InputError(
            f"bpda: expected {name} to leave its input as it is, got a module that writes into it; let its "
            "forward begin with x = x.clone()"
        )
    if self.bpda == IDENTITY:
        return _Value.apply(value, tensors[0])  # type: ignore[no-untyped-call]
    graph, of = self.bpda(*args, **kwargs), f"{label(self.bpda)} for {name}"
    if not _alike(graph, value):
        raise InputError(
            f"bpda: expected {of} to return {_form(value)} as the module does, got {_form(graph)}; give one "
            "that does"
        )
    if not graph.requires_grad:
        raise NoGradientError(
            f"bpda: expected {of} to depend on its input differentiably, got one that cuts the graph; "
            "compute it in differentiable functions of torch"
        )
    return _Value.apply(value, graph)  # type: ignore[no-untyped-call]


def _checked_value(self: Any, value: Any, x: Tensor) -> Any:
    """Return the module's value at x; InputError for one whose gradient cannot be replaced."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"bpda: expected {self.bpda_name!r} to return one floating-point tensor, got {got}; match a "
            "module around or inside it that does"
        )
    if self.bpda == IDENTITY and not _alike(value, x):
        raise InputError(
            f"bpda: expected {self.bpda_name!r} to return what has the form of its input for '{IDENTITY}', "
            f"got {_form(value)} for {_form(x)}; give a function or a network that returns the former"
        )
    return value


def _alike(one: Any, other: Tensor) -> bool:
    """Return whether both are tensors of a shape, and of a dtype unless autocast has chosen it."""
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    return one.dtype == other.dtype or torch.is_autocast_enabled(one.device.type)


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{list(value.shape)} in {str(value.dtype).removeprefix('torch.')}"


SHOWN = 20  # names of modules in an error


class _Together(nn.Module):
    """A model and what replaces parts of it, which may share modules, copied in one go."""

    def __init__(self, model: nn.Module, gradients: list[Gradient]) -> None:
        super().__init__()
        self.model, self.gradients = model, gradients
        self.nets = nn.ModuleList(net for net in gradients if isinstance(net, nn.Module))

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


def bpda(model: nn.Module, gradients: Mapping[str, Gradient]) -> nn.Module:
    """Return `model` with other gradients for the modules named: backward pass differentiable approximation.

    It computes what the model does, bit for bit, and every final check is that of the model as given. Only
    for the search, the gradient of a module m at its input x is that of a function g that you choose. So a
    bad choice makes attacks weaker, and no figure wrong. A module m need not be differentiable at all: it
    runs under no_grad. Several calls of one module each have their own gradient. Where m takes several
    arguments, g is called with the same, and "identity" is the first tensor of them.

    Args:
        model: a module.
        gradients: what replaces the gradient, by patterns over the names of `model.named_modules()`: `*`
            matches any text, ? any character. Of a module and its parts only the outermost is replaced. A
            value is "identity" (g(x) = x, where m keeps the shape), a differentiable function such as `lambda
            h: h.clamp(-1, 1)`, or a network that behaves like m.

    Returns:
        A copy in eval mode that shares the weights of `model`, which is not changed. Tables of `evaluate` and
        `Frozen.notes` say what was replaced.

    Raises:
        InputError: a pattern matches nothing, or only parts of what another replaces, or a module is under
            two patterns; in a pass, a module does not return one floating-point tensor or writes into its
            input, or its g returns another shape or dtype.
        NoGradientError: in a pass, a g is not differentiable.

    Example:
        >>> import torch, fastadv as fa
        >>> net = torch.nn.Sequential(fa.models.Binarized(torch.nn.Flatten()), torch.nn.Linear(64, 10))
        >>> model = fa.models.bpda(net, {"0": lambda x: x.flatten(1)})
        >>> x = torch.rand(4, 1, 8, 8)
        >>> torch.equal(model(x), net(x))
        True

    Source:
        Athalye, Carlini, Wagner 2018 (arXiv 1802.00420), section 4.1.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"bpda: expected a torch.nn.Module, whose parts have names, got {type(model).__name__}; "
            "give the module itself, and freeze the result"
        )
    model = unwrap(model)
    chosen = _chosen(model, _checked(gradients))
    together = _Together(model, list(gradients.values()))
    copied = copied_of(together, buffers=True, name=type(model).__name__)
    copied_model = copied.get_submodule("model")
    substitutes = dict(zip(gradients, copied.gradients, strict=True))  # type: ignore[arg-type]
    bar(copied_model, model, *(net for net in gradients.values() if isinstance(net, nn.Module)))
    for name, pattern in chosen.items():
        part, gradient = copied_model.get_submodule(name), substitutes[pattern]
        if isinstance(gradient, nn.Module) and any(inner is part for inner in gradient.modules()):
            raise InputError(
                f"bpda: expected a substitute for {name!r} that does not hold that module itself, got "
                f"{type(gradient).__name__} with it inside; give another network"
            )
        replace_gradient(part, gradient, name)
    return copied_model


def _checked(gradients: Any) -> Mapping[str, Gradient]:
    if not isinstance(gradients, Mapping) or not gradients:
        raise InputError(
            f"bpda: expected gradients by the names of modules, such as {{'quantize': '{IDENTITY}'}}, "
            f"got {gradients!r}"
        )
    for pattern, gradient in gradients.items():
        if not isinstance(pattern, str):
            raise InputError(f"bpda: expected the name of a module or a pattern, got {pattern!r}")
        if gradient != IDENTITY and (not callable(gradient) or isinstance(gradient, type)):
            raise InputError(
                f"bpda: expected '{IDENTITY}', a function or a network for {pattern!r}, got "
                f"{gradient!r}; a class is not one: make an object of it"
            )
    return gradients


def _chosen(model: nn.Module, gradients: Mapping[str, Gradient]) -> dict[str, str]:
    """Return the modules to be replaced, each by one of its names, with their patterns."""
    named = {name: part for name, part in model.named_modules(remove_duplicate=False) if name}
    patterns: dict[str, str] = {}
    matched: dict[int, str] = {}  # one module may have several names
    for pattern in gradients:
        matches = [name for name in named if fnmatchcase(name, pattern)]
        if not matches:
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            there = f"there are {', '.join([*named][:SHOWN])}{more}" if named else "the model names no parts"
            raise InputError(
                f"bpda: expected a pattern that matches a module, got {pattern!r}, which matches none; "
                f"{there}{meant(pattern, [*named])}"
            )
        for name in matches:
            other = matched.setdefault(id(named[name]), pattern)
            if other != pattern:
                raise InputError(
                    f"bpda: expected one gradient for {name!r}, got two, by {other!r} and {pattern!r}; "
                    "leave one out"
                )
            patterns[name] = pattern
    outermost: dict[int, str] = {}  # the first name of each
    inner: dict[str, tuple[str, str]] = {}  # a part of another that matches, by its pattern
    for name, pattern in patterns.items():
        around = next((other for other in patterns if name.startswith(f"{other}.")), None)
        if around is not None:
            inner.setdefault(pattern, (name, around))
        elif isinstance(named[name], torch.jit.ScriptModule):
            raise InputError(
                f"bpda: expected a module of Python, got {name!r} compiled by torch.jit; give the model "
                "before it is scripted"
            )
        else:
            outermost.setdefault(id(named[name]), name)
    chosen = {name: patterns[name] for name in outermost.values()}
    for pattern, (name, outer) in inner.items():
        if pattern not in chosen.values():
            raise InputError(
                f"bpda: expected {pattern!r} to match a module of its own, got {name!r}, a part of "
                f"{outer!r}, which is replaced as a whole; leave one out"
            )
    return chosen
