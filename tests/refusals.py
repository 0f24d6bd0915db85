"""A wrong argument, in one line."""

from collections.abc import Callable
from typing import Any

import pytest

from fastadv.errors import InputError


def refuses(match: str, call: Callable[..., Any], /, *args: Any, **options: Any) -> None:
    """The call raises an InputError whose sentence matches."""
    with pytest.raises(InputError, match=match):
        call(*args, **options)
