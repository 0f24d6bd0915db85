"""What is expected of the private symbols of torch, all of which are named in fastadv/_torch.py alone.

A new version of torch that changes one fails here, or where the ops, the engine and training compare what it
gives with something else.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

import fastadv
from fastadv import _torch
from fastadv._version import OLDEST_TORCH

PACKAGE = Path(fastadv.__file__).parent
PRIVATE = re.compile(
    r"torch(\.\w+)*\._(?!_)\w"  # torch._C, torch.ops.mkldnn._linear_pointwise
    r"|torch\.ops\.mkldnn|_execution_engine|(?<!fastadv)\._(is_view|version|modules|parameters|buffers|call_impl)\b"
    r"|\._(foreach_\w+|compiled_call_impl)|_torchdynamo_\w|[\"\']_orig_mod|\b_(NormBase|BatchNorm)\b"
    r"|from torch[\w.]*\._\w|from torch[\w.]* import .*\b_\w"
)


def private(source: str) -> list[str]:
    return [match.group() for match in PRIVATE.finditer(source)]


@pytest.mark.slow
def test_they_are_named_in_one_file() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "_torch.py"]
    found = {str(path.relative_to(PACKAGE)): private(path.read_text()) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
    assert len(private((PACKAGE / "_torch.py").read_text())) > 10


def test_normalization_layers() -> None:
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        assert issubclass(kind, _torch.BatchNorm)
    for kind in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, _torch.BatchNorm):
        assert issubclass(kind, _torch.NormBase)
    assert not issubclass(nn.InstanceNorm2d, _torch.BatchNorm)
    norm = nn.BatchNorm1d(2)
    assert isinstance(norm.running_mean, Tensor)
    assert norm.track_running_stats is True


def test_changes_are_counted() -> None:
    tensors = [torch.zeros(2), torch.zeros(3)]
    _torch.changed(tensors)
    assert [_torch.version(tensor) for tensor in tensors] == [1, 1]


def test_sharded_modules_and_weights_have_classes() -> None:
    import torch.distributed.fsdp  # takes a second

    if not hasattr(torch.distributed.fsdp, "FSDPModule"):  # before PyTorch 2.6
        import torch.distributed._composable.fsdp

    (whole, *parts), cut = _torch.sharding()
    assert whole is torch.distributed.fsdp.FullyShardedDataParallel
    assert {kind.__name__ for kind in parts} == {"FSDPModule"}
    assert [kind.__name__ for kind in cut] == ["DTensor"]


def test_a_mode_of_the_dispatcher_sees_kernels() -> None:
    seen = []

    class Mode(_torch.DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    with Mode():
        torch.ones(2) + 1
    assert seen == ["aten::ones", "aten::add.Tensor"]


@pytest.mark.slow
def test_what_is_compiled() -> None:
    layer = nn.Linear(2, 2)
    compiled: Any = torch.compile(layer, backend="eager")
    assert _torch.holds_compiled(compiled)
    assert not _torch.holds_compiled(layer)
    assert getattr(compiled, _torch.COMPILED_MODULE) is layer

    def function(x: Tensor) -> Tensor:
        return x

    assert getattr(torch.compile(function, backend="eager"), _torch.COMPILED_FUNCTION) is function


def test_transforms_are_noticed() -> None:
    inside = []
    assert not _torch.is_transformed()
    torch.func.vmap(lambda x: inside.append(_torch.is_transformed()) or x)(torch.ones(2))
    assert inside == [True]
    assert not _torch.is_transformed()


class Seen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


def test_no_mode_sees_what_is_called_inside() -> None:
    assert not _torch.has_function_mode()
    with Seen() as mode:
        assert _torch.has_function_mode()
        with _torch.without_modes():
            torch.ones(2).relu()
        assert mode.functions == []
        torch.relu(torch.ones(2))
        assert torch.relu in mode.functions


@pytest.mark.parametrize("whole", [False, True])
def test_gradients_that_no_mode_sees(whole: bool) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    out, direction = x * x, torch.tensor([1.0, 10.0])
    with Seen() as mode:
        found = _torch.run_backward((out,), (direction,), True, () if whole else (x,))
    assert mode.functions == []
    gradient = x.grad if whole else found[0]
    assert gradient is not None
    assert gradient.tolist() == [2, 40]
    assert (x.grad is None) == (not whole)
    other = torch.ones(2, requires_grad=True)
    assert _torch.run_backward((out,), (direction,), False, (other,)) == (None,)


@pytest.mark.skipif(not _torch.compares_keys, reason="torch compares the keys of tensors since 2.5")
def test_what_the_dispatcher_knows() -> None:
    def keys(tensor: Tensor) -> int:
        return int(_torch.dispatch_keys(tensor).raw_repr())

    dense = keys(torch.ones(2))
    assert keys(torch.ones(3, 2).double().t()) == dense
    for other in (torch.ones(2, device="meta"), torch.ones(2).to_sparse(), torch._neg_view(torch.ones(2))):
        assert keys(other) != dense
    unwatched = _torch.included_keys().raw_repr()

    class Mode(_torch.DispatchMode):
        pass

    with Mode():
        assert _torch.included_keys().raw_repr() != unwatched
    assert _torch.included_keys().raw_repr() == unwatched
    assert not _torch.is_profiled()
    with profile(activities=[ProfilerActivity.CPU]):
        assert _torch.is_profiled()


def test_features_are_there_from_their_versions_on() -> None:
    """`tools/matrix.py` runs this under the oldest, a middle and the newest torch."""
    found = tuple(map(int, torch.__version__.split(".")[:2]))
    for feature in _torch.FEATURES:
        assert feature.here == (found >= tuple(map(int, feature.since.split(".")))), feature.name
        assert feature.without or feature.since <= OLDEST_TORCH, feature.name
