"""Triton's interpreter beside NumPy 2.4, so that kernels run on machines without a GPU, and sooner."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import triton
from triton.language import core


@contextmanager
def patched() -> Iterator[None]:
    """What Triton 3.6's interpreter lacks.

    It reads a loop bound with int(array of one element), which NumPy 2.4 refuses. And it patches the language
    at each call of a function, which takes a third of its time, where once a launch for each module will do.
    Of the rest, most went into shapes, their names and a table of dtypes, all made anew at each use, and into
    whether integers overflow, of which it says nothing.
    """
    if not triton.knobs.runtime.interpret:
        yield
        return
    from triton.runtime import interpreter

    tensor_patched, patched_for = interpreter._patch_lang_tensor, interpreter._patch_lang
    restore, modules = interpreter._LangPatchScope.restore, set()
    numpy_dtype, known = interpreter._get_np_dtype, {}
    block, shapes = core.block_type.__init__, {}
    plain, sizes = core.tensor.__init__, {}

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

    def block_once(self, element_ty, shape):
        key = tuple([size.value if isinstance(size, core.constexpr) else size for size in shape])
        if key not in shapes:
            block(self, element_ty, shape)
            shapes[key] = self.shape, self.numel
        self.element_ty, (self.shape, self.numel), self.name = element_ty, shapes[key], ""

    def tensor_once(self, handle, type):
        key = tuple(type.shape) if type.is_block() else ()
        if key not in sizes:
            plain(self, handle, type)
            sizes[key] = self.shape, self.numel
        self.handle, self.type, self.dtype, (self.shape, self.numel) = handle, type, type.scalar, sizes[key]

    def at_the_end(scope):
        modules.clear()
        restore(scope)

    changed = [
        (interpreter, "_patch_lang_tensor", with_index),
        (interpreter, "_patch_lang", once),
        (interpreter._LangPatchScope, "restore", at_the_end),
        (interpreter, "_get_np_dtype", dtype_once),
        (interpreter.TritonSemantic, "binary_op_sanitize_overflow_impl", lambda *_: None),
        (core.tensor, "__init__", tensor_once),
        (core.block_type, "__init__", block_once),
    ]
    with ExitStack() as stack:
        for owner, name, other in changed:
            stack.enter_context(mock.patch.object(owner, name, other))
        yield
