"""What the result of one attack says about masking, sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.masking.flags import Cost
from fastadv.outputs import SOFT_LOGITS
from fastadv.threat import Threat

FEW = 8  # parameters of a map, that a grid or noise can search
ENOUGH = 500  # queries of a search without gradients that may stand beside stand-ins

FEW_PARAMETERS = (
    "Few parameters of a map were searched by gradients alone, which overstates robustness: run "
    "fastadv.attacks.grid, too."
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """One attack on N samples; tensors [N], on the CPU."""

    broken: Tensor  # bool; it broke the sample, which was right before
    unmoved: Tensor  # bool; right, not broken; all gradients zero, or one not finite
    unfinished: Tensor  # as in `AttackResult`, NaN where it is not known
    costs: Sequence[Cost]  # of the attack, or of each of its components
    soft: bool = False  # whether it has the flag `soft_logits`

    @property
    def gradient(self) -> bool:
        """Whether it took gradients."""
        return any(cost.backwards for cost in self.costs)

    def searched(self, right: Tensor) -> bool:
        """Return whether all that is `right` was broken, or searched long enough without gradients."""
        queries = (cost.forwards / max(1, cost.samples) for cost in self.costs if not cost.backwards)
        return max(queries, default=0) >= ENOUGH or not bool((right & ~self.broken).any())

    def within(self, threat: Threat, distance: Tensor, radius: float | Tensor) -> "Evidence":
        """Return what it says at the radius of a threat; it has gone to `distance` [N] at its own radius."""
        before, now = (torch.as_tensor(length, device="cpu") for length in (radius, threat.radius))
        unfinished = self.unfinished.where(before == now, torch.nan)
        return replace(self, broken=self.broken & (distance <= threat.edge(now)), unfinished=unfinished)

    @classmethod
    def of(cls, out: AttackResult) -> "Evidence":
        """Return what the result of one attack says."""
        broken, held, failed = (
            (out.status == status).cpu() for status in (Status.BROKEN, Status.HELD, Status.FAILED)
        )
        attacked = int((broken | held).sum())
        whole = Cost(attacked, int(broken.sum()), out.forwards, out.backwards, seconds=0.0)
        return cls(
            broken,
            unmoved=held & out.zero_gradient.cpu() | failed,
            unfinished=broken * torch.nan if out.unfinished is None else out.unfinished.float().cpu(),
            costs=[*getattr(out, "costs", {}).values()] or [whole],
            soft=SOFT_LOGITS in out.flags,
        )


def counted(parameters: Tensor, x: Tensor) -> int:
    """Return how many parameters a sample has, more than `FEW` where they are as many as its values."""
    count, values = parameters.shape[1:].numel(), x.shape[1:].numel()
    return count if count < values else max(count, FEW + 1)


def broken_by(evidence: Sequence[Evidence], count: int) -> Tensor:
    """Return bool [count], the samples that some attack broke."""
    none = torch.zeros(count, dtype=torch.bool, device="cpu")
    return torch.stack([none, *(attack.broken for attack in evidence)]).any(0)
