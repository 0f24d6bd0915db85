"""In what precision a run computes."""

import torch
from torch import nn

from fastadv.engine.precision import has_tf32
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
