"""What is expected of the private symbols of torch, all of which are named in fastadv/_torch.py alone.

A new version of torch that changes one fails here, or where the ops, the engine and training compare what it
gives with something else.
"""

import re
from pathlib import Path

import pytest
import torch

import fastadv
from fastadv import _torch
from fastadv._version import OLDEST_TORCH

PACKAGE = Path(fastadv.__file__).parent
PRIVATE = re.compile(
    r"torch(\.\w+)*\._(?!_)\w"  # torch._C, torch.ops.mkldnn._convolution_pointwise
    r"|torch\.ops\.mkldnn|_execution_engine|(?<!fastadv)\._(is_view|version|modules|parameters|buffers|call_impl)\b"
    r"|\._(foreach_\w+|compiled_call_impl)|_torchdynamo_\w|[\"\']_orig_mod|\b_(NormBase|BatchNorm)\b"
    r"|from torch[\w.]*\._\w|from torch[\w.]* import .*\b_\w"
)


def private(source: str) -> list[str]:
    return [match.group() for match in PRIVATE.finditer(source)]


@pytest.mark.slow
def test_they_are_named_in_one_file() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "_torch.py"]
    named = {str(path.relative_to(PACKAGE)): private(path.read_text()) for path in files}
    assert {path: names for path, names in named.items() if names} == {}
    assert len(private((PACKAGE / "_torch.py").read_text())) > 10


def test_sharded_modules_and_weights_have_classes() -> None:
    import torch.distributed.fsdp  # takes a second

    if not hasattr(torch.distributed.fsdp, "FSDPModule"):  # before PyTorch 2.6
        import torch.distributed._composable.fsdp

    (whole, *parts), cut = _torch.sharding()
    assert whole is torch.distributed.fsdp.FullyShardedDataParallel
    assert {kind.__name__ for kind in parts} == {"FSDPModule"}
    assert [kind.__name__ for kind in cut] == ["DTensor"]


def test_features_are_there_from_their_versions_on() -> None:
    """`tools/matrix.py` runs this under the oldest, a middle and the newest torch."""
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    for feature in _torch.FEATURES:
        assert feature.here == (version >= tuple(map(int, feature.since.split(".")))), feature.name
        assert feature.without or feature.since <= OLDEST_TORCH, feature.name
