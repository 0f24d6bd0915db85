"""Parse the schemas of ops, and give C++ kernels the layouts that they take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastadv._torch import parse_schema


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

    def order_of(args: Sequence[Any]) -> torch.memory_format:
        """Return the order of memory in which the kernel is to read tensors that are not all dense."""
        # values of a sample, such as its logits, have no layout
        images = (args[i] for i in batches if args[i].dim() > 2)
        last = all(t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) for t in images)
        return torch.channels_last if last and not ordered else torch.contiguous_format

    def adapter(*args: Any) -> None:
        views = [*args, *defaults[len(args) :]]  # the dispatcher leaves out trailing defaults
        order = torch.contiguous_format
        for i in batches:
            if not args[i].is_contiguous():
                order = order_of(args)
                for k in batches:
                    views[k] = _laid_out(args[k], order)
                break
        for i in optional:
            if views[i] is not None:
                views[i] = _laid_out(views[i], order)
        for i in lists:
            views[i] = [tensor.contiguous() for tensor in args[i]]
        for i in loose:
            tensor = args[i]
            views[i] = tensor if not len(tensor) or tensor[0].is_contiguous() else tensor.contiguous()
        kernel(*views)
        for i in written:
            if views[i] is not args[i]:
                args[i].copy_(views[i])

    return adapter


def _laid_out(tensor: torch.Tensor, order: torch.memory_format) -> torch.Tensor:
    """Return the tensor in an order of memory, which images alone can have channels-last."""
    return tensor.contiguous(memory_format=order if tensor.dim() == 4 else torch.contiguous_format)
