"""Triton's interpreter beside NumPy 2.4, so that kernels run on machines without a GPU, and sooner."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import triton
from triton.language import core


def of_parts(self: Any, types: Any, fields: Any = None) -> None:
    """`core.tuple_type.__init__` without the name."""
    self.types, self.fields = types, fields or [""] * len(types)


def name_of(self: Any) -> str:
    """What `core.tuple_type` is called."""
    return (
        "[" + ",".join(f"{field}:{type}" for field, type in zip(self.fields, self.types, strict=False)) + "]"
    )


@contextmanager
def patched() -> Iterator[None]:
    """What Triton 3.6's interpreter lacks.

    It reads a loop bound with int(array of one element), which NumPy 2.4 refuses. And it patches the language
    at each call of a function, which takes a third of its time, where once a launch for each module will do.
    Of the rest, half went into writing names for the types of shapes, which nobody reads, and into a table
    of dtypes that was made anew at each use.
    """
    if not triton.knobs.runtime.interpret:
        yield
        return
    from triton.runtime import interpreter

    tensor_patched, patched_for = interpreter._patch_lang_tensor, interpreter._patch_lang
    restore, modules = interpreter._LangPatchScope.restore, set()
    numpy_dtype, known = interpreter._get_np_dtype, {}

    def with_index(tensor, scope):
        tensor_patched(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def once(function):
        module = id(function.__globals__)
        if module not in modules:
            modules.add(module)
            return patched_for(function)
        return None  # what a launch gets is restored at its end; a call inside it takes nothing

    def dtype_once(dtype):
        name = dtype.scalar.name
        if name not in known:
            known[name] = numpy_dtype(dtype)
        return known[name]

    def at_the_end(scope):
        modules.clear()
        restore(scope)

    changed = [
        (interpreter, "_patch_lang_tensor", with_index),
        (interpreter, "_patch_lang", once),
        (interpreter._LangPatchScope, "restore", at_the_end),
        (interpreter, "_get_np_dtype", dtype_once),
        (core.tuple_type, "__init__", of_parts),
        (core.tuple_type, "name", property(name_of)),
    ]
    with ExitStack() as stack:
        for owner, name, other in changed:
            stack.enter_context(mock.patch.object(owner, name, other, create=name == "name"))
        yield
