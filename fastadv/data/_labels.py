"""Labels as a set gives them: classes, or probabilities of the classes."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fastadv.errors import InputError

ROUNDING = 1e-4  # by which a sum of float32 probabilities may differ from 1: decimals in a file


def check_labels(y: object, what: str) -> Tensor:
    """Return classes as int64 [B], or probabilities as float32 [B, K]; InputError for anything else."""
    if not isinstance(y, Tensor):
        text = isinstance(y, list | tuple) and bool(y) and isinstance(y[0], str)
        raise InputError(f"{what}: expected integer labels [B], got {'str' if text else type(y).__name__}")
    if y.ndim == 2 and y.is_floating_point() and y.shape[1] > 1:
        return _check_probabilities(y, what)
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(
            f"{what}: expected integer labels [B], got {y.dtype} of shape {list(y.shape)}; probabilities of "
            "the classes are float [B, K]"
        )
    return y.long()


def _check_probabilities(y: Tensor, what: str) -> Tensor:
    wide = y.float()
    if not wide.isfinite().all():
        raise InputError(f"{what}: expected finite probabilities, got NaN or infinity; check their source")
    off = (wide.sum(1) - 1).abs()
    if len(y) and (wide.min() < 0 or off.max() > max(ROUNDING, 8 * torch.finfo(y.dtype).eps)):
        bad = int(torch.where((wide < 0).any(1), torch.inf, off).argmax())
        raise InputError(
            f"{what}: expected probabilities of at least 0 whose sum is 1, got {wide[bad].min():.4g} to "
            f"{wide[bad].max():.4g} with the sum {wide[bad].sum():.6g} in row {bad}; take logits.softmax(1)"
        )
    return wide


def classes_of(y: Tensor) -> Tensor:
    """Return the labels int64 [B]; of probabilities the likeliest class."""
    return y.argmax(1) if y.is_floating_point() else y


def probabilities_of(y: Tensor, classes: int) -> Tensor:
    """Return the probabilities float32 [B, K]; of a class 1."""
    return y.float() if y.is_floating_point() else one_hot(y, classes).float()
