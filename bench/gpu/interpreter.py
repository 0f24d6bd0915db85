"""Triton's interpreter beside NumPy 2.4, so that kernels run on machines without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import triton


@contextmanager
def patched() -> Iterator[None]:
    """Triton 3.6's interpreter reads a loop bound with int(array of one element), which NumPy 2.4 refuses."""
    if not triton.knobs.runtime.interpret:
        yield
        return
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def with_index(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with mock.patch.object(interpreter, "_patch_lang_tensor", with_index):
        yield
