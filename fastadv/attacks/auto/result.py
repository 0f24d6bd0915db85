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
        version: the version, or the components of a list.
        by: for each sample, the name of the first component that broke it; "" where none did, or where x was
            already wrong.
        costs: by name, what each component that had samples left did: `samples`, of which so many `broken`,
            `forwards`, `backwards` and `seconds`.
        notes: what the version did and left out, in words.
        broken: with `individual`, for each component by its name the samples that it broke, bool [B]; empty
            otherwise, where `by` says all.
        indicators: signs of masked gradients, looked for on 8 samples, and on more as far as 5% of the passes
            reach; None where they were not asked for. Their passes count as forwards and backwards of the
            result. Where `bpda` was given and the model shows signs, they are those of `bpda`.
        others: as in `AttackResult`.
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
        """Return the parts of one line: the accuracies, what each component broke, and the verdict."""
        told = replace(self, attack=f"AutoAttack {self.version}")
        number = Counter(self.by)
        parts = [f"{name} {number[name]}" for name in self.costs if number[name]]
        verdict = self.verdict[:1].lower() + self.verdict[1:]
        return [*AttackResult.sentences(told), *filter(None, [", ".join(parts), verdict])]
