"""What every attack returns."""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from fastadv.threat import Threat


class Status(IntEnum):
    """The outcome for one sample; `AttackResult.status` holds these numbers.

    Attributes:
        ALREADY_WRONG: 0, x itself is a success and was left alone.
        BROKEN: 1, the attack found a success.
        HELD: 2, the attack found none.
        FAILED: 3, the attack found none, and a logit or gradient was not finite.
    """

    ALREADY_WRONG = 0
    BROKEN = 1
    HELD = 2
    FAILED = 3


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """The outcome of an attack on a batch of B samples.

    Robust accuracy is `(~success).float().mean()`: a sample that was already wrong counts as a success.

    Attributes:
        x_adv: like x; always finite, inside the box and the ball. Where x was already wrong, x itself. Where
            nothing was broken, the strongest point for budget attacks, and x itself for minimum-norm ones.
        success: bool [B]; the model as given, in eval mode, classifies x_adv as the attack wants.
        status: int64 [B] of `Status`: ALREADY_WRONG where x itself is a success and was left alone, BROKEN
            where the attack found a success, HELD where it found none, FAILED where it found none and a logit
            or gradient was not finite.
        loss: [B]; the attack's loss at x_adv.
        distance: [B]; from x to x_adv in the threat's norm where BROKEN, 0 where ALREADY_WRONG, else inf.
        forwards: samples passed forward, through the model or its copy for the search.
        backwards: samples for which an input gradient was computed.
        zero_gradient: bool [B]; every gradient of the search was exactly zero, so that none could lead it.
            The model is flat there, or it masks its gradients.
        unfinished: [B]; the share of the rise of the loss that came with the last tenth of the gradients, at
            most ten; 0 where it did not rise, NaN where that is not known.
        refuted: bool [B]; the search saw a success, the model as given did not confirm it, and none was found
            later.
        threat: the threat in which any wrong class is a success; None where targets, a criterion or a mask
            were given.
        flags: warnings that cast doubt on the result; empty where nothing does. One of them names a model
            that gives two answers for one x, because it is randomized or depends on the rest of the batch.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> out = fa.attacks.bim(model, x, y, fa.Linf(0.3))
        >>> 1 - out.success.float().mean().item()  # robust accuracy
        0.0
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
