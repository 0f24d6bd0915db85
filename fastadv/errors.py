"""The errors a caller may want to catch. Each message says what was expected, what came, and what to do."""


class InputError(ValueError):
    """An argument that cannot be used: shape, dtype, device, range, label or option."""

    @property
    def argument(self) -> str:
        """The name with which the message begins."""
        return str(self).partition(":")[0]


class NoGradientError(InputError):
    """A model whose logits do not depend on its input differentiably, although a gradient is needed."""


class CorruptFileError(RuntimeError):
    """A file that is truncated, damaged, or was not written by this library."""


class MissingExtraError(ImportError):
    """A package that an extra installs, such as matplotlib, is needed and missing."""


class LostProcessError(RuntimeError):
    """One of the processes that share a run has ended before the others."""
