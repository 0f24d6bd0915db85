"""What AutoAttack returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.masking import Indicators
from fastadv.attacks.methods.flags import Cost


@dataclass(frozen=True, eq=False, repr=False)
class AutoAttackResult(AttackResult):
    """The outcome of AutoAttack; `flags` begin with the names of the five warnings, where they apply.

    Attributes:
        by: for each sample, the name of the component that broke it, of several the first; "" where none did,
            or x was wrong already.
        costs: what each component did that had samples left, in order. `forwards` of the result also counts
            the verdicts and the look for symptoms.
        notes: what the version did and left out, in words.
        broken: with `individual`, for each component by its name bool [B], the samples that it broke; empty
            otherwise, where `by` says all.
        indicators: signs of masked gradients, looked for on 8 samples, and on more as far as 5% of the passes
            reach; None where they were not asked for. The passes count as forwards and backwards of the
            result. Where `bpda` was given and the model shows signs, they are those of `bpda`.
    """

    by: tuple[str, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    broken: Mapping[str, Tensor] = field(default_factory=dict)
    indicators: Indicators | None = None

    @property
    def verdict(self) -> str:
        """The line of the indicators; "" where they were not asked for."""
        return "" if self.indicators is None else self.indicators.verdict
