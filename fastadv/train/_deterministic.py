"""Training whose bits do not depend on the number of processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fastadv._torch import NormBase
from fastadv.errors import InputError
from fastadv.runs import processes
from fastadv.train._share import PARTS

WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # as cuBLAS names them
WANTED = "expected a network in which samples pass on their own, for deterministic=True"
INSTEAD = (
    "set BatchNorm to eval mode within a model in train mode, take GroupNorm, or leave deterministic out"
)


def check_deterministic(model: nn.Module, device: torch.device) -> None:
    """Raise InputError unless this model can be trained in parts by so many processes, on that device."""
    if PARTS % processes.world():
        raise InputError(
            f"processes: expected 1, 2, 4 or {PARTS} with deterministic=True, which cuts each batch into "
            f"{PARTS} parts, got {processes.world()}; start as many"
        )
    for name, part in model.named_modules():
        if isinstance(part, NormBase) and _has_statistics(part, part.training or not model.training):
            raise InputError(f"model: {WANTED}, got statistics of the batch in {name or part}; {INSTEAD}")
    if device.type == "cuda" and os.environ.get(WORKSPACE) not in WORKSPACES:
        raise InputError(
            f"{WORKSPACE}: expected one of {', '.join(WORKSPACES)} in the environment, so that cuBLAS is "
            f"deterministic, got {os.environ.get(WORKSPACE)!r}; set it before the program starts"
        )


def _has_statistics(norm: NormBase, training: bool) -> bool:
    """Return whether the layer takes statistics of the batch, or keeps them."""
    if isinstance(norm, nn.modules.instancenorm._InstanceNorm):
        return training and norm.track_running_stats
    return training or norm.running_mean is None


def describe_deterministic(device: torch.device) -> dict[str, int]:
    """Describe what the bits depend on: the parts of a batch, and on a CPU the threads that share a sum."""
    threads = {} if device.type == "cuda" else {"threads": torch.get_num_threads()}
    return {"parts": PARTS, **threads}


@contextmanager
def deterministic_kernels(warn_only: bool = False) -> Iterator[None]:
    """Use kernels that give the same bits each time, inside. Where torch has none it raises, or warns."""
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    searches = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.backends.cudnn.benchmark = False  # it may choose another kernel each time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.backends.cudnn.benchmark = searches


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Raise InputError if a step writes into a buffer: parts of a batch would write one after another."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    yield
    after = dict(model.named_buffers())
    for name, buffer in before.items():
        if not bool(((buffer == after[name]) | (buffer != buffer)).all()):
            raise InputError(f"model: {WANTED}, got one that writes into its buffer {name}; {INSTEAD}")
