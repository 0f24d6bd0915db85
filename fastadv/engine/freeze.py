"""freeze: from the caller's model to a Frozen one."""

from typing import Literal

import torch
from torch import nn

from fastadv.engine.fold import BATCH_NORMS, Unfoldable
from fastadv.engine.fold import fold as fold_batch_norms
from fastadv.engine.frozen import Frozen, Model, Options, is_conv2d
from fastadv.engine.thin import thin
from fastadv.engine.twin import device_of, dtype_of, twin, unwrap
from fastadv.errors import InputError


def freeze(
    model: Model | Frozen,
    precision: Literal["fp32", "bf16"] = "fp32",
    *,
    fold: bool = True,
    compile: bool = False,
    cuda_graph: bool = False,
) -> Frozen:
    """A fixed classifier made fast for attacks; the model itself is left exactly as it was.

    The verdict twin is the model in eval mode, sharing its parameters. The search twin is made from it:
    BatchNorm folded into the layer before, channels-last for networks with two-dimensional convolutions, weights and
    activations in bfloat16 where asked. On its first batch the search twin is compared with the verdict twin, and
    replaced by it, with a note and a warning, where the difference is larger than rounding.

    Args:
        model: module, or function of x [B, ...] giving logits [B, K]; K >= 2. A Frozen is returned as it is.
        precision: "fp32" searches in the model's own precision, "bf16" in bfloat16 with float32 x, logits and gradient.
        fold: make a search twin of its own. Folded weights are copies, taken now; with `fold=False` both twins
            follow the model while it trains, and bfloat16 is by autocast.
        compile: run the search twin through torch.compile.
        cuda_graph: capture forward and backward as CUDA graphs, for batch sizes rounded up to powers of two.
            Follows the model only while its weights stay in place.

    Raises:
        InputError: a model that is neither, cannot be copied or is lazy; unknown precision; `cuda_graph` off CUDA.
    """
    if isinstance(model, Frozen):
        return model
    if precision not in ("fp32", "bf16"):
        raise InputError(f'freeze: expected precision "fp32" or "bf16", got {precision!r}')
    if not callable(model):
        raise InputError(f"freeze: expected a module or a function of x, got {type(model).__name__}")
    notes: list[str] = []
    module = unwrap(model) if isinstance(model, nn.Module) else None
    given: Model = twin(module, follow=not fold) if module is not None else model
    device = device_of(module) if module is not None else None
    dtype = dtype_of(module) if module is not None else None
    if cuda_graph and (device is None or device.type != "cuda"):
        raise InputError(
            f"freeze: expected a model on a CUDA device for cuda_graph, got {device}; leave cuda_graph off"
        )

    search, search_dtype, channels_last, autocast = given, dtype, False, False
    if module is not None and fold:
        # weights made in inference mode could not take part in a gradient
        with torch.inference_mode(False), torch.no_grad():
            changed, channels_last = _search_twin(module, notes)
            if precision == "bf16":
                changed, search_dtype = (
                    _to_bfloat16(changed or twin(module, follow=False), notes),
                    torch.bfloat16,
                )
        search = changed or given
    elif precision == "bf16":
        autocast = True
        notes.append("bfloat16 by autocast")
    # the forward pass stays the same call, so the verdict twin may have it too; the compiler has its own kernels
    twins = {id(part): part for part in (given, search) if isinstance(part, nn.Module)}
    count = 0 if compile else sum(thin(part) for part in twins.values())
    if count:
        notes.append("thin input convolution")
    if compile:
        search = torch.compile(search)
        notes.append("compiled")
    if cuda_graph:
        notes.append("captured as CUDA graphs")
    return Frozen(
        given,
        search,
        dtype=dtype,
        search_dtype=search_dtype,
        device=device,
        channels_last=channels_last,
        autocast=autocast,
        cuda_graph=cuda_graph,
        options=Options(precision, fold, compile, cuda_graph),
        notes=tuple(notes),
    )


def _search_twin(module: nn.Module, notes: list[str]) -> tuple[nn.Module | None, bool]:
    """The folded, channels-last twin and whether it is channels-last; None where the model stays as it is."""
    search: nn.Module | None = None
    try:
        search, folded = fold_batch_norms(twin(module, follow=False))
        notes.append(f"folded {folded} BatchNorm")
    except Unfoldable as why:
        notes.append(f"not folded: {why}")
    except (
        Exception
    ) as error:  # what tracing and fusing can raise has no common type, and all of it means the same
        notes.append(f"not folded: folding failed ({error})")
    if not is_conv2d(module):
        return search, False
    notes.append("channels-last")
    return (search or twin(module, follow=False)).to(memory_format=torch.channels_last), True  # type: ignore[call-overload]


def _to_bfloat16(search: nn.Module, notes: list[str]) -> nn.Module:
    search = search.to(torch.bfloat16)
    for part in search.modules():
        if isinstance(part, BATCH_NORMS):
            part.float()  # statistics lose too much in eight bits, and take bfloat16 activations as they are
    notes.append("bfloat16 search")
    return search
