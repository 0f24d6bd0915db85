"""What AutoAttack returns."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.masking import Indicators
from fastadv.attacks.methods.flags import Cost


@dataclass(frozen=True, eq=False, repr=False)
class AutoAttackResult(AttackResult):
    """The outcome of AutoAttack: an `AttackResult` that also says what each component did.

    `flags` begin with the names of AutoAttack's five warnings, where they apply. `forwards` also counts the
    final checks and the passes that look for these warnings.

    Attributes:
        x_adv: like x; always finite, inside the box and the ball. Where nothing was broken, the strongest
            point.
        success: bool [B]; the model as given classifies x_adv as the attack wants.
        status: int64 [B] of `Status`.
        loss: [B]; the attack's loss at x_adv.
        distance: [B]; from x to x_adv in the threat's norm where BROKEN, 0 where ALREADY_WRONG, else inf.
        forwards: samples passed forward.
        backwards: samples for which an input gradient was computed.
        zero_gradient: bool [B]; every gradient of the search was exactly zero.
        flags: warnings that cast doubt on the result.
        unfinished: [B]; the least over the components, each as in `AttackResult`; NaN where that is not
            known.
        threat: the threat in which any wrong class is a success; None where targets, a criterion or a mask
            were given.
        correct: bool [B]; the model classifies x as y, by logits that are finite.
        attack: the name of the attack.
        version: the version, or the components of a list.
        by: for each sample, the name of the first component that broke it; "" where none did, or where x was
            already wrong.
        costs: the `Cost` of each component that had samples left, in order.
        notes: what the version did and left out, in words.
        broken: with `individual`, for each component by its name the samples that it broke, bool [B]; empty
            otherwise, where `by` says all.
        indicators: signs of masked gradients, looked for on 8 samples, and on more as far as 5% of the passes
            reach; None where they were not asked for. Their passes count as forwards and backwards of the
            result. Where `bpda` was given and the model shows signs, they are those of `bpda`.
    """

    version: str = ""
    by: tuple[str, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    broken: Mapping[str, Tensor] = field(default_factory=dict)
    indicators: Indicators | None = None

    @property
    def verdict(self) -> str:
        """The conclusion of the indicators in one line; "" where they were not asked for."""
        return "" if self.indicators is None else self.indicators.verdict

    def sentences(self) -> list[str]:
        """Return what to report of the attack, with what each component broke and the verdict.

        Returns:
            A list of parts of one line, the accuracies first.
        """
        told = replace(self, attack=f"AutoAttack {self.version}")
        number = Counter(self.by)
        parts = [f"{name} {number[name]}" for name in self.costs if number[name]]
        verdict = self.verdict[:1].lower() + self.verdict[1:]
        return [*AttackResult.sentences(told), *filter(None, [", ".join(parts), verdict])]
