"""What every attack returns."""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from fastadv.threat import Threat


class Status(IntEnum):
    """What became of a sample; `AttackResult.status` holds these numbers."""

    ALREADY_WRONG = 0
    BROKEN = 1
    HELD = 2
    FAILED = 3


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """The outcome of an attack on a batch of B samples.

    Attributes:
        x_adv: like x; always finite, inside the box and the ball. x itself where x was already wrong. Where
            nothing was broken: the strongest point for budget attacks, x itself for minimum-norm ones.
        success: bool [B]; the model as given, in eval mode, classifies x_adv as the attack wants.
        status: int64 [B] of `Status`. ALREADY_WRONG: x itself is a success, and was left alone. BROKEN: a
            success. HELD: no success. FAILED: no success, and a logit or gradient on the way was not finite.
        loss: [B]; the attack's loss at x_adv.
        distance: [B]; of x_adv to x in the threat's norm where BROKEN, 0 where ALREADY_WRONG, else inf.
        forwards: samples passed through either twin of the model.
        backwards: samples for which an input gradient was computed.
        zero_gradient: bool [B]; every gradient met was exactly zero, so none led the search. The model is
            flat there, or it masks its gradients.
        unfinished: [B]; the share of the rise of the loss that came with the last tenth of the gradients, at
            most ten; 0 where it did not rise, NaN where that is not known.
        refuted: bool [B]; the search saw a success, the model as given did not, and none was found later.
        threat: in which any wrong class is a success; None where targets, a criterion or a mask say more.
        flags: what casts doubt on the result, in words; empty where nothing does. One names a model that
            gives two answers for one x, being randomized or dependent on the rest of the batch.

    Robust accuracy is `(~success).float().mean()`: a sample that was already wrong counts as a success.
    """

    x_adv: Tensor
    success: Tensor
    status: Tensor
    loss: Tensor
    distance: Tensor
    forwards: int
    backwards: int
    zero_gradient: Tensor
    flags: tuple[str, ...] = ()
    unfinished: Tensor | None = None
    refuted: Tensor | None = None
    threat: Threat | None = None

    def __repr__(self) -> str:
        number = Counter(self.status.tolist())
        parts = ", ".join(f"{number[s]} {s.name.lower().replace('_', ' ')}" for s in Status)
        flags = "".join(f"; {flag}" for flag in self.flags)
        return (
            f"AttackResult({len(self.status)} samples: {parts}; "
            f"{self.forwards} forwards, {self.backwards} backwards{flags})"
        )
