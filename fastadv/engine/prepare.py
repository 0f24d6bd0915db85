"""prepare: which engine answers, the plain one or a frozen copy."""

import torch

from fastadv._checks import check_flag
from fastadv.engine.arguments import Outputs
from fastadv.engine.frozen import Frozen
from fastadv.engine.module import as_module, device_of
from fastadv.engine.plain import Plain
from fastadv.engine.precision import Options
from fastadv.engine.prepared import Model, Prepared
from fastadv.engine.rewrite import has_batch_norm, has_conv2d

# Passes times samples from which a frozen copy gains more than it takes to make and to compare. On an H200
# the first call of a frozen ResNet-18 takes 40 ms more, and 1,000 images gain 9 ms a pass.
WORTH, WORTH_ON_GPU = 4096, 1 << 16


def prepare(
    model: Model | Prepared, eot: int | None = None, *, work: int = 0, freeze: bool | None = None,
    outputs: Outputs = "classes",
) -> Prepared:  # fmt: skip
    """Return the model as an attack asks it: plain, or frozen where that pays.

    What was prepared before is used as it is. Otherwise a module with a convolution or BatchNorm is frozen
    where `work` is at least WORTH, on a GPU WORTH_ON_GPU, without settings of the process. Anything else
    stays plain.

    Args:
        model: module, function or prepared.
        eot: passes over which the search averages, by the model as given where there are several; None takes
            those of a prepared model, or else 1.
        work: planned passes times samples.
        freeze: True freezes any module for any work, False none; None, the default, decides.
        outputs: what the model returns.

    Returns:
        A prepared model.

    Raises:
        InputError: the model cannot be called, or `freeze` is no flag.
    """
    if freeze is not None:
        check_flag("freeze", freeze)
    if isinstance(model, Prepared):
        eot = model.eot if eot is None else eot
        outputs = model.outputs if outputs == "classes" else outputs  # of an attack within an attack
        same = (eot, outputs) == (model.eot, model.outputs)
        return model if same else model.having(eot=eot, outputs=outputs)
    eot = 1 if eot is None else eot
    freeze = gains(model, work) if freeze is None else freeze
    if freeze and eot == 1 and as_module(model) is not None:
        return Frozen(model, Options(outputs=outputs))  # nothing of the process is set
    return Plain(model, eot, outputs=outputs)


def gains(model: Model, work: int) -> bool:
    """Return whether a frozen copy of a module is faster in so much work."""
    if work < WORTH or (module := as_module(model)) is None:
        return False
    device = device_of(module) or torch.device("cpu")
    least = WORTH if device.type == "cpu" else WORTH_ON_GPU
    # one of linear layers alone takes 1.2 to 1.7 times as long
    return work >= least and (has_conv2d(module) or has_batch_norm(module))
