"""Triton's interpreter beside NumPy 2.4, so that kernels run on machines without a GPU, and sooner."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import triton


@contextmanager
def patched() -> Iterator[None]:
    """What Triton 3.6's interpreter lacks.

    It reads a loop bound with int(array of one element), which NumPy 2.4 refuses. And it patches the language
    at each call of a function, which takes a third of its time, where once a launch for each module will do.
    """
    if not triton.knobs.runtime.interpret:
        yield
        return
    from triton.runtime import interpreter

    tensor_patched, patched_for = interpreter._patch_lang_tensor, interpreter._patch_lang
    restore, modules = interpreter._LangPatchScope.restore, set()

    def with_index(tensor, scope):
        tensor_patched(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def once(function):
        module = id(function.__globals__)
        if module not in modules:
            modules.add(module)
            return patched_for(function)
        return None  # what a launch gets is restored at its end; a call inside it takes nothing

    def at_the_end(scope):
        modules.clear()
        restore(scope)

    with (
        mock.patch.object(interpreter, "_patch_lang_tensor", with_index),
        mock.patch.object(interpreter, "_patch_lang", once),
        mock.patch.object(interpreter._LangPatchScope, "restore", at_the_end),
    ):
        yield
