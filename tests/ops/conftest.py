"""What runs in Triton's interpreter, for seconds an item, runs in full where an op has changed."""

import pytest
import torch

from tests.changed import differing

# what kernels, references and samples are made of
SOURCES = ("fastadv/ops/", "tests/ops/", "tests/triton_interpreter.py", "constraints.txt")


def ops_changed(config: pytest.Config) -> bool:
    """Return whether an op differs from HEAD, or from the commit of `--changed`; outside of git it may."""
    try:
        return any(path.startswith(SOURCES) for path in differing(config.getoption("--changed") or "HEAD"))
    except pytest.UsageError:
        return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out items that are marked `in_full`, but on a GPU and where an op has changed."""
    left_out = [item for item in items if item.get_closest_marker("in_full")]
    if left_out and not (torch.cuda.is_available() or ops_changed(config)):
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
