"""The samples behind the figures of an evaluation: their adversarial examples, and what made them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.methods.flags import Cost


@dataclass(frozen=True)
class Components:
    """The components of an attack that consists of others, such as AutoAttack."""

    by: Tensor = field(repr=False)  # int64 [n], the place among `costs` of what broke a sample; -1 for none
    costs: Mapping[str, Cost]  # what each component did, by its name and in the order of their runs

    def by_any_of(self, names: Collection[str]) -> Tensor:
        """Return bool [n], the samples that some of the components broke."""
        return torch.tensor([*(name in names for name in self.costs), False])[self.by]

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as a dictionary for JSON."""
        return {name: asdict(cost) for name, cost in self.costs.items()}

    def cells(self) -> list[list[str]]:
        """Return the costs as text, line by line, the head first."""
        lines = [["component", "samples", "broken", "forwards", "backwards", "seconds"]]
        for name, cost in self.costs.items():
            *counts, seconds = astuple(cost)
            lines.append([name, *(f"{count:,}" for count in counts), f"{seconds:.1f}"])
        return lines


@dataclass(frozen=True)
class Samples:
    """Every sample with the nearest of the adversarial examples that the attacks found.

    status is FAILED where the model's logits for x are not finite, or where no attack broke the sample and
    one met numbers that are not finite. Of attacks with equal distances, the first counts.
    """

    x: Tensor  # [N, ...], clean
    x_adv: Tensor  # x itself where no attack broke the sample
    y: Tensor  # int64 [N]
    ids: Tensor  # int64 [N], positions in the data set
    success: Tensor  # bool [N]; broken, or already wrong
    status: Tensor  # int64 [N] of `fastadv.attacks.Status`
    distance: Tensor  # float64 [N], of x_adv where broken, 0 where already wrong, else inf
    by: Tensor  # int64 [N], the row whose attack found x_adv; -1 for none
    component: Tensor  # int64 [N], its place among the row's `components.costs`; -1 for none
    distances: Tensor  # float64 [N, A], those of each attack, as in its row

    @classmethod
    def together(cls, parts: Sequence["Samples"]) -> "Samples":
        """Return the samples of all parts, in their order."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def add_components(self, attacks: Sequence[Components | None]) -> None:
        """Fill in `component` from those of each attack."""
        for place, components in enumerate(attacks):
            if components is not None:
                mine = self.by == place
                self.component[mine] = components.by[mine]
