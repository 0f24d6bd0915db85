"""prepare: which engine answers, the plain one or a frozen copy."""

from torch import nn

from fastadv._checks import check_flag
from fastadv.engine.by_row import ByRow, takes_ids
from fastadv.engine.fold import has_batch_norm
from fastadv.engine.freeze import frozen_by_itself
from fastadv.engine.frozen import Frozen
from fastadv.engine.module import as_module, device_of
from fastadv.engine.plain import Plain
from fastadv.engine.prepared import Model, Prepared
from fastadv.engine.rewrite import has_conv2d

# Passes times samples from which a frozen copy gains more than it takes to make and to compare. On an H200
# the first call of a frozen ResNet-18 takes 40 ms more, and 1,000 images gain 9 ms a pass; small nets gain
# nothing there, so it must be a small part of the whole.
WORTH, WORTH_ON_GPU = 4096, 1 << 20


def prepare(
    model: Model | Prepared, eot: int | None = None, *, work: int = 0, freeze: bool | None = None,
    size: int = 0,
) -> Prepared:  # fmt: skip
    """Return the model as an attack asks it: plain, or frozen where that pays.

    What was prepared before is used as it is. Otherwise a module with a convolution or BatchNorm is frozen
    where `work` is at least WORTH, on a GPU WORTH_ON_GPU, without settings of the process. Anything else
    stays plain, and so does a model that takes the ids of its rows, or batches of one `size` alone.

    Args:
        model: module, function or prepared.
        eot: passes over which the search averages; None takes those of a prepared model, or else 1.
        work: planned passes times samples.
        freeze: True freezes any module for any work, False none; None, the default, decides.
        size: of the batches that the model takes; 0 for any.

    Returns:
        A prepared model.

    Raises:
        InputError: the model cannot be called, or `freeze` is no flag.
    """
    wanted = None if freeze is None else check_flag("freeze", freeze)
    source = model.source if isinstance(model, Prepared) else model
    passes = 1 if eot is None else eot
    by_row = size or takes_ids(source)
    if isinstance(model, Prepared) and eot in (None, model.eot) and (not by_row or _fits(model, size)):
        return model
    if by_row:
        return ByRow(model, passes, size)
    module = as_module(model)
    if isinstance(model, Frozen) or (module is not None and gains(module, work, wanted)):
        return frozen_by_itself(model, passes)
    return Plain(model, passes)


def _fits(model: Prepared, size: int) -> bool:
    return isinstance(model, ByRow) and model.size >= size


def gains(module: nn.Module, work: int, wanted: bool | None = None) -> bool:
    """Return whether a frozen copy is faster in so much work, unless it is `wanted` or not.

    One of linear layers alone takes 1.2 to 1.7 times as long.
    """
    device = device_of(module)
    least = WORTH if device is None or device.type == "cpu" else WORTH_ON_GPU
    faster = work >= least and (has_conv2d(module) or has_batch_norm(module))
    return faster if wanted is None else wanted
