"""What the result of one attack says about masking, sample by sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.attacks.core.result import AttackResult, Status
from fastadv.threat import Threat


@dataclass(frozen=True, eq=False)
class Evidence:
    """One attack on N samples; tensors [N], on the CPU.

    broken      bool; it broke the sample, which was right before.
    blind       bool; it did so without a gradient.
    unmoved     bool; right, not broken, and all gradients were zero, or one was not finite.
    unfinished  float; as in `AttackResult`, NaN where it is not known.
    refuted     bool; as in `AttackResult`.
    gradient    whether it took gradients.
    passes      forward and backward, all samples together.
    threat      as in `AttackResult`; None, too, where samples have radii of their own.
    """

    broken: Tensor
    blind: Tensor
    unmoved: Tensor
    unfinished: Tensor
    refuted: Tensor
    gradient: bool
    passes: int
    threat: Threat | None

    @classmethod
    def of(cls, out: AttackResult) -> "Evidence":
        """Return what a result says."""
        broken, nothing = (out.status == Status.BROKEN).cpu(), torch.zeros(len(out.status), dtype=torch.bool)
        failed = (out.status == Status.FAILED).cpu()
        unmoved = (out.status == Status.HELD).cpu() & out.zero_gradient.cpu()
        return cls(
            broken=broken,
            blind=broken & _without_gradients(out),
            unmoved=unmoved | failed if out.backwards else nothing,
            unfinished=_unfinished(out),
            refuted=nothing if out.refuted is None else out.refuted.cpu(),
            gradient=out.backwards > 0,
            passes=out.forwards + out.backwards,
            threat=_one_radius(out),
        )


def _without_gradients(out: AttackResult) -> Tensor:
    """Return bool [B], the samples that were attacked without gradients at last: by Square, of AutoAttack."""
    by = getattr(out, "by", None)
    if by is None:
        return torch.full((len(out.status),), not out.backwards)
    return torch.tensor([name.split()[-1:] == ["square"] for name in by], dtype=torch.bool)


def _unfinished(out: AttackResult) -> Tensor:
    """Return float32 [B], `unfinished` of a result, NaN where it does not say."""
    if out.unfinished is None:
        return torch.full((len(out.status),), torch.nan)
    return out.unfinished.float().cpu()


def _one_radius(out: AttackResult) -> Threat | None:
    """Return the threat of a result, None where samples have their own radii."""
    threat = out.threat
    return None if threat is None or isinstance(threat.radius, Tensor) else threat
