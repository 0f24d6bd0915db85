"""Parse the schemas of ops, and give C++ kernels the layouts that they take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastadv._torch import parse_schema

_torch: Any = torch  # the schema parser carries no types


@dataclass(frozen=True)
class Signature:
    """An op's arguments by position, with their names and defaults, and how many tensors it returns."""

    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    tensors: tuple[int, ...]
    optional: tuple[int, ...]
    lists: tuple[int, ...]
    written: tuple[int, ...]
    results: int

    @staticmethod
    def of(schema: str) -> "Signature":
        """Parse a schema such as "(Tensor x, float radius, ...) -> Tensor"."""
        parsed = parse_schema("op" + schema)
        kinds = [str(argument.type) for argument in parsed.arguments]

        def places(kind: str) -> tuple[int, ...]:
            return tuple(i for i, other in enumerate(kinds) if other == kind)

        aliases = [argument.alias_info for argument in parsed.arguments]
        return Signature(
            names=tuple(argument.name for argument in parsed.arguments),
            defaults=tuple(argument.default_value for argument in parsed.arguments),
            tensors=places("Tensor"),
            optional=places("Optional[Tensor]"),
            lists=places("List[Tensor]"),
            written=tuple(i for i, alias in enumerate(aliases) if alias is not None and alias.is_write),
            results=len(parsed.returns),
        )


def in_place_schema(schema: str) -> str:
    """Return the schema of the in-place op, which writes its first argument and returns nothing."""
    arguments = schema.rsplit("->", 1)[0]
    return arguments.replace("(Tensor ", "(Tensor(a!) ", 1) + "-> ()"


def over_layouts(
    kernel: Callable[..., None], signature: Signature, ordered: bool = False, strided: Sequence[str] = ()
) -> Callable[..., None]:
    """Wrap the C++ `kernel`, which takes dense or channels-last tensors, for others; results come first."""
    skip = signature.results
    loose = tuple(skip + signature.names.index(name) for name in strided)
    results = tuple(range(skip))
    batches = results + tuple(i for i in (skip + i for i in signature.tensors) if i not in loose)
    optional = tuple(skip + i for i in signature.optional)
    lists = tuple(skip + i for i in signature.lists)
    written = results + tuple(skip + i for i in signature.written)
    defaults = [None] * skip + list(signature.defaults)

    def call(args: Sequence[Any], last: bool = False) -> None:
        views = [*args, *defaults[len(args) :]]  # the dispatcher leaves out trailing defaults
        for i in optional:
            if (view := views[i]) is not None:
                order = torch.channels_last if last and view.dim() == 4 else torch.contiguous_format
                views[i] = view.contiguous(memory_format=order)
        for i in lists:
            views[i] = [tensor.contiguous() for tensor in args[i]]
        for i in loose:
            tensor = args[i]
            views[i] = tensor if not len(tensor) or tensor[0].is_contiguous() else tensor.contiguous()
        kernel(*views)

    def adapter(*args: Any) -> None:
        for i in batches:
            if not args[i].is_contiguous():
                break
        else:
            return call(args)
        # values of a sample, such as its logits, have no layout
        last = not ordered and all(
            args[i].dim() == 4 and args[i].is_contiguous(memory_format=torch.channels_last)
            for i in batches
            if args[i].dim() > 2
        )
        copies = list(args)
        for i in batches:
            if not (last and args[i].dim() == 4):
                copies[i] = args[i].contiguous()
        call(copies, last)
        for i in written:
            if copies[i] is not args[i]:
                args[i].copy_(copies[i])

    return adapter
