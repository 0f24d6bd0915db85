"""freeze: from the caller's model to a Frozen one."""

import copyreg
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fastadv._checks import eager
from fastadv.engine.automatic import fastest
from fastadv.engine.capture import CAPTURED
from fastadv.engine.copying.copier import eval_copy
from fastadv.engine.frozen import Frozen
from fastadv.engine.layout import CHANNELS_LAST, lay_out
from fastadv.engine.module import as_module
from fastadv.engine.parts import mixes_rows
from fastadv.engine.plain import Plain
from fastadv.engine.precision import AUTO, HALF, Options, Precision, may_take_tf32, to_half
from fastadv.engine.prepared import Model, Prepared
from fastadv.engine.replaced import in_words, replaced
from fastadv.engine.rewrite import Rewriting, Subject
from fastadv.engine.rewrites import applicable
from fastadv.engine.search_copy import Notes, SearchCopy
from fastadv.engine.stamp import Stamp
from fastadv.errors import InputError
from fastadv.runs.pages import keep_pages

log = logging.getLogger("fastadv")

MIXES = "searched as it is: a BatchNorm takes its statistics from the batch"  # notes
SEARCHES = {"bf16": "bfloat16 search", "fp16": "float16 search", "tf32": "TF32 search"}


@eager
def freeze(
    model: Model | Prepared, precision: Precision | None = None, *, compile: bool | None = None,
    cuda_graph: bool | None = None, eot: int | None = None,
) -> Frozen:  # fmt: skip
    """Prepare a classifier for fast attacks; the model itself is not changed.

    A call of an attack on a model is plain, unless it is long; freeze a model that you attack many times.
    Successes are always checked on the model as given, in eval mode. The search uses a copy that runs the
    same Python: in it BatchNorm is folded into the layer before, networks with two-dimensional convolutions
    are channels-last, and functions that are slow on a CPU are replaced by faster ones. Its logits and
    gradients are compared with the model's on the caller's own batches. Where they differ by more than
    rounding, the model itself replaces the copy; a note and a warning say so.

    The model may change afterwards: the next call sees it and freezes the model anew (see `Frozen`), which
    takes as long as the first time. So a model that trains is better attacked as it is.

    Args:
        model: module, or function of x [B, ...] that returns logits [B, K]; K >= 2. A bound method of a
            module and a functools.partial of one count as modules. A Frozen is returned as it is, unless
            options are given that differ from its own: then its source is frozen again with those.
        precision: "fp32" (the default) searches in the model's own precision; "bf16" and "fp16", of modules,
            in bfloat16 or float16, with float32 x, logits and gradient (a direction of ascent stays in
            bfloat16); "tf32" in the model's own, but a GPU takes products in TF32, meanwhile those of other
            threads, too; "auto" in the one that is fastest on the first batch. A sample whose activations
            exceed the range of float16 fails. Passes without a gradient stay in the model's own precision,
            since attacks that make them compare losses that half precision does not tell apart.
        compile: run the search copy through torch.compile (default False).
        cuda_graph: whether steps of bim, pgd, mim, apgd and last_iterate are captured as CUDA graphs; at most
            32 and 1 GiB of them are kept. None, the default, does so on a GPU where the model can be
            captured, as a plain call does; True says in a note where it cannot; False does not, as a model
            needs whose class attributes or closures change between calls of last_iterate.
        eot: passes of a randomized model over which search logits, losses and gradients are averaged (default
            1), the expectation over transformation. The final check is one pass.

    Returns:
        A `Frozen`, which attacks and `fastadv.evaluate` take in place of the model.

    Raises:
        InputError: the model is neither a module nor a function, cannot be copied or is lazy; an option is
            unknown, or cannot be had of this model. On the first batch: a copy of the model would run parts
            of the original, or the precision is "auto" in a group of processes.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> frozen = fa.freeze(model, precision="bf16")
        >>> bool(fa.attacks.pgd(frozen, x, y, fa.Linf(0.3), steps=10).success.all())
        True

    Source:
        Athalye et al. 2018 (arXiv 1802.00420), for `eot`.
    """
    asked = {"precision": precision, "compile": compile, "cuda_graph": cuda_graph, "eot": eot}
    chosen: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    options = replace(model.options if isinstance(model, Frozen) else Options(), **chosen)
    if isinstance(model, Frozen) and options == model.options:
        return model
    keep_pages()
    return _freeze(model, options)


def frozen_by_itself(model: Model | Prepared, eot: int) -> Frozen:
    """Freeze a model that nobody asked to freeze: nothing of the process is set."""
    return _freeze(model, replace(model.options if isinstance(model, Frozen) else Options(), eot=eot))


def follow(
    model: nn.Module, precision: Precision, compile: bool = False, cuda_graph: bool | None = None
) -> Frozen:
    """Freeze a model that is training and keeps its parts; `Frozen.refresh` takes its current values."""
    keep_pages()
    return _freeze(model, Options(precision=precision, compile=compile, cuda_graph=cuda_graph, follow=True))


def _freeze(model: Model | Prepared, options: Options) -> Frozen:
    plain = Plain(model, options.eot)
    source, module = plain.source, as_module(plain.source)
    _check_possible(source, module, plain.device, options)
    if options.compile:
        log.warning("freeze: compiling; that may take a minute, and less the next time")
    search, rewriting = _copy(plain.model, module, options, plain.dtype)
    bpda = in_words(replaced(module))
    notes = {
        "channels-last": CHANNELS_LAST.name in rewriting.names,
        SEARCHES.get(options.precision, ""): options.precision in SEARCHES and search is not plain.model,
        MIXES: search is plain.model and isinstance(search, nn.Module) and mixes_rows(search),
        "compiled": options.compile,
        CAPTURED: options.cuda_graph is True,
        bpda: bool(bpda),
    }
    first_notes = Notes(tuple(note for note, holds in notes.items() if holds))
    return Frozen(
        plain, SearchCopy(search, module, rewriting, plain, options, first_notes),
        anew=partial(_freeze, source, options),
        stamp=None if module is None or options.follow else Stamp(module),
        fastest=partial(fastest, partial(_freeze, source), options) if options.precision == AUTO else None,
    )  # fmt: skip


def _copy(
    model: Model, module: nn.Module | None, options: Options, dtype: torch.dtype | None
) -> tuple[Model, Rewriting]:
    """Return a copy for the search, and how it is rewritten; the model as given where that gains nothing."""
    nothing, half = Rewriting((), Subject(nn.Identity(), dtype)), HALF.get(options.precision)
    if module is None or not isinstance(model, nn.Module):
        return torch.compile(model) if options.compile else model, nothing
    rewrites = applicable(model, half or dtype)
    # of statistics of a batch, what a search finds in one is not proved by a part of it
    if mixes_rows(model) or not (rewrites or options.special):
        return model, nothing
    # weights made in inference mode could not take part in a gradient
    with torch.inference_mode(False), torch.no_grad():
        copied = eval_copy(module, follow=options.follow, apart=options.follow)
        if CHANNELS_LAST in rewrites or half is not None or options.follow:
            lay_out(copied, CHANNELS_LAST in rewrites)
        if half is not None:
            to_half(copied, half)
    if options.compile:  # which looks at functions for itself
        rewrites = [each for each in rewrites if each is CHANNELS_LAST]
        return torch.compile(copied), Rewriting(rewrites, Subject(nn.Identity(), half or dtype))
    return copied, Rewriting(rewrites, Subject(copied, half or dtype))


def _anew(frozen: Frozen) -> tuple[Callable[[Model, Options], Frozen], tuple[Model, Options]]:
    return _freeze, (frozen.source, frozen.options)


# for pickle and deepcopy, and for this class alone: a subclass would lose what it adds
copyreg.pickle(Frozen, _anew)


def _check_possible(
    source: Model, module: nn.Module | None, device: torch.device | None, options: Options
) -> None:
    """Raise InputError where the options cannot be had of that model."""
    if options.cuda_graph and (device is None or device.type != "cuda"):
        raise InputError(
            f"freeze: expected a model on a CUDA device for cuda_graph, got {device}; leave cuda_graph off"
        )
    if options.precision == "tf32" and not may_take_tf32(module, device):
        raise InputError(
            "freeze: expected a module in float32 on a GPU of compute capability 8 or more for 'tf32', "
            f"got {type(source).__name__} on {device}; leave the precision out"
        )
    if options.precision in HALF and module is None:
        raise InputError(
            f"freeze: expected a module for {options.precision!r}, whose copy is cast, got "
            f"{type(source).__name__}; leave the precision out"
        )
