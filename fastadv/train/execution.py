"""How a run is carried out: what changes speed and rounding, not what is trained."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastadv._checks import check_choice, check_count, check_flag
from fastadv.errors import InputError
from fastadv.train.recipes import AWP, FreeTraining
from fastadv.train.recipes.base import owns_step

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out: what changes speed and rounding, not what is trained.

    Args:
        precision: "fp32"; "bf16" runs the recipe under autocast and searches its examples in it; "fp16" runs
            under autocast, with losses scaled so that their gradients stay in range (a step where they do not
            is left out, and the scale halved). Accuracies are measured in the model's own precision.
        workers: processes that read images from disk, 0 or more; None is up to 8 for many images. They do not
            change the result: what a data set draws itself is keyed by (seed, epoch, sample).
        checkpoint_every: steps after which a checkpoint is also written within an epoch, 1 or more; it needs
            a `run_dir`.
        cuda_graph: whether steps that search for examples are captured as CUDA graphs, as in `freeze`; None,
            the default, does so on a GPU where the model can be captured.
    """

    precision: str = "fp32"
    workers: int | None = None
    checkpoint_every: int | None = None
    cuda_graph: bool | None = None

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        if self.cuda_graph is not None:
            check_flag("cuda_graph", self.cuda_graph)
        if self.workers is not None:
            check_count("workers", self.workers, 0)
        if self.checkpoint_every is not None:
            check_count("checkpoint_every", self.checkpoint_every, 1)


def check_execution(
    execution: Execution, model: nn.Module, recipe: Any, device: torch.device, run_dir: Any
) -> None:
    """Raise InputError where this model cannot be trained in this way on this device."""
    if run_dir is None and execution.checkpoint_every:
        raise InputError(
            "run_dir: expected a folder for the checkpoints, got None; "
            "pass run_dir=, or leave out checkpoint_every"
        )
    if execution.cuda_graph and device.type != "cuda":
        raise InputError(f"cuda_graph: expected a model on a CUDA device, got {device}; leave it out")
    if execution.precision == "fp16":
        _check_fp16(model, recipe, device)


def _check_fp16(model: nn.Module, recipe: Any, device: torch.device) -> None:
    """Raise InputError where autocast does not know fp16, or weights would round away their steps."""
    if owns_step(recipe) and not isinstance(recipe, AWP | FreeTraining):
        raise InputError(
            f"precision: expected 'fp32' or 'bf16' for {type(recipe).__name__}, which takes gradients itself "
            "that fp16 would round to zero, got 'fp16'"
        )
    if not torch.amp.is_autocast_available(device.type):
        raise InputError(f"precision: expected 'fp32' on {device}, which has no autocast, got 'fp16'")
    if any(weight.dtype != torch.float32 for weight in model.parameters() if weight.requires_grad):
        raise InputError(
            "precision: expected weights in float32 for 'fp16', got others; call model.float(), or leave "
            "it out"
        )
