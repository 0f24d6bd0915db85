"""In what precision a run computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fastadv.errors import InputError

PRECISIONS = ("fp32", "bf16", "tf32")


def check_precision(precision: str) -> None:
    """InputError for another name than those of PRECISIONS."""
    if precision not in PRECISIONS:
        raise InputError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")


def check_acts(precision: str, model: nn.Module, device: torch.device) -> None:
    """InputError for "tf32" where nothing would be computed in it."""
    if precision != "tf32":
        return
    if not has_tf32(device):
        raise InputError(
            f"precision: expected 'fp32' or 'bf16' on {device}, which has no TF32, got 'tf32'; "
            "train on a GPU of compute capability 8 or more, or leave it out"
        )
    if all(weight.dtype != torch.float32 for weight in model.parameters()):
        raise InputError(
            "precision: expected weights in float32 for 'tf32', got none; call model.float(), or leave it out"
        )


def has_tf32(device: torch.device) -> bool:
    """Whether the device multiplies float32 in TF32 where it may."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_tf32_supported()


@contextmanager
def tf32() -> Iterator[None]:
    """Inside, CUDA multiplies float32 in TF32; afterwards as the caller had set it.

    torch has a switch for each kind of operation and an older one for all matrix products. Code that reads
    the older one, as parts of torch.compile do, raises where they disagree, so both are set.
    """
    backends: Any = torch.backends
    cuda, onednn = backends.cuda.matmul, backends.mkldnn.matmul
    switches = (cuda, backends.cudnn.conv, backends.cudnn.rnn, onednn)
    before = [switch.fp32_precision for switch in switches]
    older = _older() if cuda.fp32_precision != "tf32" else None
    try:
        if older is not None:
            torch.set_float32_matmul_precision("high")
        for switch in switches[:3]:
            switch.fp32_precision = "tf32"
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)  # which turns oneDNN's, too
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def _older() -> str | None:
    """The older switch; None where it cannot be read, because the caller has set the others alone."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
