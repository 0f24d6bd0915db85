"""The errors a caller may want to catch. Each message says what was expected, what came, and what to do."""


class InputError(ValueError):
    """An argument that cannot be worked with: shape, dtype, device, range, label or option."""


class NoGradientError(InputError):
    """A model whose logits do not depend on its input differentiably, where a gradient was asked for."""


class CorruptFileError(RuntimeError):
    """A file that is truncated, damaged, or was not written by this library."""


class MissingExtraError(ImportError):
    """A package that an extra brings, such as matplotlib, where a call needs it and it is not installed."""


class LostProcessError(RuntimeError):
    """One of the processes that share a run has ended before the others."""
