"""The version of fastadv, and the oldest torch that it runs with.

pyproject.toml reads the version here; its requirement on torch and CITATION.cff are compared by a test.
"""

import re

__version__ = "0.1.0"
OLDEST_TORCH = "2.4"


def check_torch(version: str) -> None:
    """Raise ImportError where a torch of that version is too old."""
    if _numbers(version) < _numbers(OLDEST_TORCH):
        raise ImportError(
            f"fastadv {__version__}: expected PyTorch {OLDEST_TORCH} or later, got {version}; "
            f"run: pip install 'torch>={OLDEST_TORCH}'"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return (2, 11) of "2.11.0a0+git1234"."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
