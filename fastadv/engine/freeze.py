"""freeze: from the caller's model to a Frozen one."""

import ctypes
import os
from dataclasses import replace
from functools import cache
from typing import Any

from torch import nn

from fastadv._checks import knowing
from fastadv.engine.arguments import Outputs
from fastadv.engine.frozen import Frozen
from fastadv.engine.precision import Options, Precision
from fastadv.engine.prepared import Model, Prepared

# The names in glibc's malloc.h, and bytes: of the largest block, and of free memory at the heap's end
MALLOC = {"M_MMAP_THRESHOLD": (-3, 1 << 28), "M_TRIM_THRESHOLD": (-1, 1 << 30)}


@knowing
def freeze(
    model: Model | Prepared, precision: Precision | None = None, *, compile: bool | None = None,
    cuda_graph: bool | None = None,
) -> Frozen:  # fmt: skip
    """Prepare a classifier for fast attacks; the model itself is not changed.

    A call of an attack on a model is plain, unless it is long; freeze a model that you attack many times.
    Successes are always checked on the model as given, in eval mode. The search uses a copy that runs the
    same Python: in it BatchNorm is folded into the layer before, networks with two-dimensional convolutions
    are channels-last, and functions that are slow on a CPU are replaced by faster ones. Its logits and
    gradients are compared with the model's on the caller's own batches. Where they differ by more than
    rounding, the model itself replaces the copy; a note and a warning say so.

    The result is a snapshot. Where the model's tensors, parts, modes or hooks change afterwards, the next
    call freezes it anew, which takes as long as the first time; so a model that trains is better attacked as
    it is. After a change of an attribute, such as a number or a function, freeze it again: the search does
    not see it, the check of successes does. What `copy.deepcopy` refuses to copy, and a model whose copy
    would run parts of the original, is searched as given; a note and a warning say so.

    Args:
        model: module, or function of x [B, ...] that returns logits [B, K]; K >= 2. A bound method of a
            module and a functools.partial of one count as modules. A Frozen is returned as it is, unless
            options are given that differ from its own: then its source is frozen again with those.
        precision: "fp32" (the default) searches in the model's own precision; "bf16", of modules, in
            bfloat16, with float32 x, logits and gradient (a direction of ascent stays in bfloat16). Passes
            without a gradient stay in the model's own precision, since attacks that make them compare losses
            that half precision does not tell apart.
        compile: True runs the search copy through torch.compile, whose result is captured like any other. It
            takes 10 to 40 seconds, and pays off where a GPU works for more than a minute.
        cuda_graph: whether steps of bim, pgd, mim, apgd and last_iterate are captured as CUDA graphs; at most
            32 and 1 GiB of them are kept. None, the default, does so on a GPU where the model can be
            captured, as a plain call does; True says in a note where it cannot; False does not, as a model
            needs whose class attributes, globals or closures change between calls of last_iterate.

    Returns:
        A `Frozen`, which attacks and `fastadv.evaluate` take in place of the model.

    Raises:
        InputError: the model is neither a module nor a function, or is lazy; an option is unknown, or cannot
            be had of this model.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> frozen = fa.freeze(model, precision="bf16")
        >>> bool(fa.attacks.pgd(frozen, x, y, fa.Linf(0.3), steps=10).success.all())
        True
    """
    asked = {"precision": precision, "compile": compile, "cuda_graph": cuda_graph}
    chosen: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    options = replace(model.options if isinstance(model, Frozen) else Options(), **chosen)
    if isinstance(model, Frozen) and options == model.options:
        return model
    _keep_pages()
    return Frozen(model, options)


def follow(
    model: nn.Module, precision: Precision, compile: bool = False, cuda_graph: bool | None = None,
    outputs: Outputs = "classes",
) -> Frozen:  # fmt: skip
    """Freeze a model that is training and keeps its parts; `Frozen.refresh` takes its current values."""
    _keep_pages()
    return Frozen(model, Options(precision, compile, cuda_graph, follow=True, outputs=outputs))


@cache
def _keep_pages() -> None:
    """Let glibc keep the memory that passes free, whose pages would fault again, for the whole process."""
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    set_by_user = set_by_user or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if os.environ.get("FASTADV_KEEP_PAGES") == "0" or set_by_user:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for option in MALLOC.values():
        mallopt(*option)
