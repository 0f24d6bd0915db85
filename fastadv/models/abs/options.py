"""The options of ABS inference: numbers and choices, no tensors."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from fastadv._checks import check_choice, check_count, check_flag, check_number
from fastadv.errors import InputError

InputGrad = Literal["envelope", "unrolled"]
Precision = Literal["fp32", "bf16"]
# With the authors' weights, 99.8% of the descents of 3,000 training images end above this share of their
# first loss.
PRUNE_GAIN = 0.385


@dataclass(frozen=True)
class InferenceOptions:
    """The options of an ABS. `ABS.options` holds them, and calls take others as an argument.

    A value outside its range raises InputError.

    Args:
        beta: weight of the prior in the class loss, at least 0.
        binary: Binary ABS: pixels >= 0.5 become 1, others 0, and class losses are multiplied by `factors`.
        steps: evaluations of the latent descent: steps - 1 updates by Adam, then the loss.
        step_size: of Adam.
        max_norm: latents with a larger L2 norm are rescaled to it after each step.
        prune: whether to skip the descent of a class that would not win even if the descent reduced its loss
            to `prune_gain` times that of its best prior sample. The class keeps the loss of that sample, and
            no other loss changes. Classes take turns, which saves time on a CPU; a GPU, where it would cost
            time, skips none.
        prune_gain: from 0 (no class is skipped) to 1 (a class is skipped as soon as another is better).
        precision: "fp32", or "bf16" for a latent descent in bfloat16.
        input_grad: how logits depend on x: "envelope" (exact at a converged latent, cheap) or "unrolled"
            (through every step, in the precision of the weights). With `binary` both are taken at the
            binarized image and pass straight through to x.
        scale: alpha of the confidence (exp(alpha l_k) + eta) / sum over classes.
        floor: eta of the confidence.
    """

    beta: float = 1.0
    binary: bool = False
    scale: float = 440.0
    floor: float = 3.9e-5
    max_norm: float = 5.0
    input_grad: InputGrad = "envelope"
    prune: bool = False
    precision: Precision = "fp32"
    steps: int = 50
    step_size: float = 0.05
    prune_gain: float = PRUNE_GAIN

    def __post_init__(self) -> None:
        for name, choices in (("input_grad", get_args(InputGrad)), ("precision", get_args(Precision))):
            check_choice(name, getattr(self, name), choices)
        for name in ("binary", "prune"):
            check_flag(name, getattr(self, name))
        check_count("steps", self.steps, 1)
        for name in ("beta", "scale", "floor"):
            check_number(name, getattr(self, name), 0)
        check_number("prune_gain", self.prune_gain, 0, 1)
        for name in ("step_size", "max_norm"):
            if not check_number(name, getattr(self, name), 0) > 0:
                raise InputError(f"{name}: expected a positive number, got 0")

    def changed(self, **changes: Any) -> Self:
        """Replace some options."""
        known = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(changes.keys() - set(known))
        if unknown:
            raise InputError(f"options: expected some of {', '.join(known)}, got {', '.join(unknown)}")
        return dataclasses.replace(self, **changes)
