"""Accuracy under attack, batch by batch: update, compute, reset."""

from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks import AttackResult
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.runs import processes


class RobustAccuracy:
    """The share of samples that an attack leaves right, over all batches and all processes.

    The methods are those of a metric of torchmetrics, without the package: `update` for each batch, `compute`
    at the end of an epoch, `reset` before the next. Where a process group is initialized, `compute` adds up
    what all processes have seen; all must call it.

    Args:
        attack: (model, x, y, ids=ids) -> AttackResult, such as partial(fa.attacks.pgd, threat=fa.Linf(0.3)).
            It may use the numbers of samples seen so far for its random draws.

    Raises:
        InputError: the attack is not a function.
    """

    def __init__(self, attack: Any) -> None:
        if not callable(attack):
            raise InputError(f"attack: expected a function, got {type(attack).__name__}; partial makes one")
        self.attack = attack
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.right = self.total = 0

    def update(self, model: nn.Module | Prepared, x: Tensor, y: Tensor) -> None:
        """Attack one batch and count what stays right.

        Args:
            model: the classifier, which is left as it is.
            x: [B, ...], images.
            y: int [B], labels.
        """
        ids = torch.arange(self.total, self.total + len(y), device=x.device)
        ids = ids * processes.world() + processes.rank()
        result: AttackResult = self.attack(model, x, y, ids=ids)
        self.right += int(result.held.sum())
        self.total += len(y)

    def compute(self) -> Tensor:
        """Compute the share of all samples so far.

        Returns:
            A float32 scalar.

        Raises:
            InputError: no sample was seen.
        """
        right, total = processes.add_up(torch.tensor([self.right, self.total])).tolist()
        if not total:
            raise InputError("compute: expected samples, got none; call update first")
        return torch.tensor(right / total)
