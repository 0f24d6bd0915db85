"""freeze: from the caller's model to a Frozen one."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from fastadv.engine.copying.fold import Folds, estimates_gradients, has_batch_norm, is_scripted
from fastadv.engine.copying.twin import as_module, device_of, dtype_of, twin
from fastadv.engine.cpu.activations import ELU, RELU
from fastadv.engine.cpu.norms import NORMS
from fastadv.engine.cpu.onednn import COVER, LINEAR, gains
from fastadv.engine.cpu.thin import THIN
from fastadv.engine.cpu.winograd import Winograd, available
from fastadv.engine.frozen import Frozen, Model
from fastadv.engine.layout import lay_out
from fastadv.engine.narrow import may_take_tf32, to_half, to_tf32
from fastadv.engine.options import Options
from fastadv.engine.parts import is_conv2d
from fastadv.engine.precision import HALF, Precision
from fastadv.engine.rewrite import Rewriting
from fastadv.engine.scratch import keep_pages
from fastadv.engine.search_twin import CAPTURED, SearchTwin
from fastadv.engine.simpler import COMPILED
from fastadv.engine.tune import tuned
from fastadv.engine.views import VIEWS
from fastadv.errors import InputError


def freeze(
    model: Model | Frozen,
    precision: Precision | None = None,
    *,
    fold: bool | None = None,
    compile: bool | None = None,
    cuda_graph: bool | None = None,
    eot: int | None = None,
    tune: bool | None = None,
) -> Frozen:
    """A fixed classifier made fast for attacks; the model itself is left exactly as it was.

    The verdict twin is the model in eval mode, sharing its parameters; nothing of it is rewritten. The search
    twin runs the same Python. It is channels-last for networks with two-dimensional convolutions and in
    another precision where asked, BatchNorm is folded into the layer before, and functions that a CPU library
    does slowly are done otherwise. On its first batch its logits are compared with those of the verdict twin,
    and on the first batch of each kind its gradient. What differs by more than rounding is left out by name,
    or the verdict twin replaces the search twin; a note and a warning say so.

    Args:
        model: module, or function of x [B, ...] giving logits [B, K]; K >= 2. A bound method of a module and
            a functools.partial of one count as modules. Any other function is called as it is, in whatever
            mode it runs. A Frozen is returned as it is, unless options are given that differ from its own:
            then its source is frozen again with those.
        precision: "fp32" (the default) searches in the model's own precision; "bf16" and "fp16" with weights
            and activations in bfloat16 or float16 and with float32 x, logits and gradient (a direction of
            ascent stays in bfloat16); "tf32" in the model's own, but a GPU takes products in TF32, meanwhile
            those of other threads, too. float16 has 3 bits more than bfloat16 and ends at 65,504: a sample
            whose activations go beyond fails.
        fold: make a search twin of its own (default True). Folded weights are copies, taken on the
            first batch. With `fold=False` both twins follow the model while it trains, and half precision is
            by autocast.
        compile: run the search twin through torch.compile (default False).
        cuda_graph: capture gradients, and whole steps of bim, pgd, mim, apgd and last_iterate, as CUDA
            graphs (default False), for batch sizes rounded up by at most a quarter; at most 32 and 1 GiB of
            them are kept. They follow the model only while its weights stay in place. A loss that is a
            function is not captured.
        eot: passes of a randomized model over which search logits, losses and gradients are averaged (default
            1), the expectation over transformation of Athalye et al. 2018. The verdict stays one pass.
        tune: on the first batch, time the search twin, also in the model's own precision, the model as it is,
            and the fastest of them compiled and on a GPU captured (default False). The fastest stays; a note
            tells the times. Results may then differ by rounding from run to run, and the compiler may take a
            minute.

    Raises InputError on a model that is neither a module nor a function, that cannot be copied or is lazy, on
    unknown options, on `cuda_graph` off CUDA or with `eot` > 1, on a precision in which nothing would be
    computed, and on the first batch of a model whose copy would run parts of the original, or with `tune` in
    a group of processes.
    """
    asked = {
        "precision": precision, "fold": fold, "compile": compile, "cuda_graph": cuda_graph, "eot": eot,
        "tune": tune,
    }  # fmt: skip
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    options = replace(model.options if isinstance(model, Frozen) else Options(), **given)
    if isinstance(model, Frozen):
        return model if options == model.options else _freeze(model.source, options)
    if isinstance(model, type):
        raise InputError(f"model: expected a model, got the class {model.__name__}; make one of it")
    if not callable(model):
        raise InputError(f"model: expected a module or a function of x, got {type(model).__name__}")
    return _freeze(model, options)


def _freeze(source: Model, options: Options) -> Frozen:
    keep_pages()
    notes: list[str] = []
    module = as_module(source)
    device = device_of(module) if module is not None else None
    if options.cuda_graph and module is not None and estimates_gradients(module):
        raise InputError(
            "freeze: expected a model with gradients of its own for cuda_graph, got one that estimates them, "
            "whose probes a replay would not count; leave cuda_graph off"
        )
    if options.cuda_graph and (device is None or device.type != "cuda"):
        raise InputError(
            f"freeze: expected a model on a CUDA device for cuda_graph, got {device}; leave cuda_graph off"
        )
    if options.precision == "tf32" and not may_take_tf32(module, device):
        raise InputError(
            "freeze: expected a module in float32 on a GPU of compute capability 8 or more for 'tf32', "
            f"got {type(source).__name__} on {device}; leave the precision out"
        )
    half = HALF.get(options.precision)
    name = str(half).removeprefix("torch.")
    if half is not None and not options.fold and module is not None and dtype_of(module) == torch.float64:
        raise InputError(
            f"freeze: expected a model in float32 for {options.precision!r} with fold=False, which is by "
            "autocast and leaves float64 as it is, got one in float64; call model.float(), or leave fold out"
        )
    given: Model = twin(module, follow=not options.fold) if module is not None else source
    search, channels_last, autocast = given, False, None
    narrow: Callable[[SearchTwin], None] | None = None
    if module is not None and options.fold and not options.as_given:
        channels_last = is_conv2d(module)
        if channels_last or half is not None:
            # weights made in inference mode could not take part in a gradient
            with torch.inference_mode(False), torch.no_grad():
                search = twin(module, follow=False)
                lay_out(search, channels_last)
        notes += ["channels-last"] * channels_last + [f"{name} search"] * (half is not None)
        notes += ["not folded: no BatchNorm"] * (not has_batch_norm(module))
    elif half is not None:
        autocast = half
        notes.append(f"{name} by autocast")
    rewriting = Rewriting()
    if module is not None:
        rewriting = _rewriting(cast(nn.Module, search), options, half or dtype_of(module))
    if half is not None and autocast is None:
        narrow = partial(to_half, dtype=half, compiled=options.compile)
    elif options.compile:
        search = torch.compile(search)
    if options.precision == "tf32":
        narrow = to_tf32
        notes.append("TF32 search")
    if options.compile:
        notes.append(COMPILED)
    if options.cuda_graph:
        notes.append(CAPTURED)
    return Frozen(
        given,
        search,
        source=source,
        options=options,
        dtype=dtype_of(module) if module is not None else None,
        device=device,
        channels_last=channels_last,
        autocast=autocast,
        rewriting=rewriting,
        narrow=narrow,
        notes=tuple(notes),
        tuned=partial(tuned, partial(_freeze, source), options) if options.tune else None,
    )


def _rewriting(search: nn.Module, options: Options, dtype: torch.dtype | None) -> Rewriting:
    """The rewrites for a model that is to compute in `dtype`; where nothing else may gain, exact ones."""
    # the compiler has looked at its parts
    if any("_orig_mod" in part._modules for part in search.modules()):
        return Rewriting()
    on_cpu = device_of(search) in (None, torch.device("cpu"))
    exact = [THIN, RELU] if on_cpu else []
    if not options.fold or options.as_given:
        return Rewriting(exact)
    folds = Folds(search) if has_batch_norm(search) and not is_scripted(search) else None
    convolves = is_conv2d(search)
    if not on_cpu or not (convolves or folds is not None or gains(search)):
        return Rewriting([VIEWS] if convolves else exact, folds)
    wide = [Winograd(dtype).rewrite] if dtype is not None and available(dtype) else []
    linear = [LINEAR] if dtype == torch.float32 else []
    return Rewriting([*wide, COVER, *exact, *linear, ELU, VIEWS, NORMS], folds)
