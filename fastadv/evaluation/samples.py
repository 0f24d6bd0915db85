"""The samples behind the figures of an evaluation: their adversarial examples, and what made them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.methods.flags import Cost


@dataclass(frozen=True)
class Components:
    """The components of an attack that consists of others, such as AutoAttack.

    Attributes:
        by: int64 [n], the component that broke each sample, as its place among `costs`; -1 where none did.
        costs: what each component did, by its name and in the order of their runs.
    """

    by: Tensor = field(repr=False)
    costs: Mapping[str, Cost]

    def by_any_of(self, names: Collection[str]) -> Tensor:
        """Return the samples that some of the components broke.

        Args:
            names: of components.

        Returns:
            bool [n].
        """
        return torch.tensor([*(name in names for name in self.costs), False])[self.by]

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as a dictionary for JSON.

        Returns:
            For each component, what it did.
        """
        return {name: asdict(cost) for name, cost in self.costs.items()}

    def cells(self) -> list[list[str]]:
        """Return the costs as text.

        Returns:
            A list of lines of cells, the head first.
        """
        lines = [["component", "samples", "broken", "forwards", "backwards", "seconds"]]
        for name, cost in self.costs.items():
            *counts, seconds = astuple(cost)
            lines.append([name, *(f"{count:,}" for count in counts), f"{seconds:.1f}"])
        return lines


@dataclass(frozen=True)
class Examples:
    """The first N samples that an attack broke.

    Attributes:
        x: [N, ...], clean.
        x_adv: like x.
        y: int64 [N], labels.
        clean_prediction: int64 [N], the class of x.
        prediction: int64 [N], the class of x_adv.
        ids: int64 [N], positions in the data set.
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    clean_prediction: Tensor
    prediction: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Samples:
    """Every sample with the nearest of the adversarial examples that the attacks found.

    Attributes:
        x: [N, ...], clean.
        x_adv: like x; x itself where no attack broke the sample.
        y: int64 [N], labels.
        ids: int64 [N], positions in the data set.
        success: bool [N]; broken, or already wrong.
        status: int64 [N] of `fastadv.attacks.Status`; FAILED where the model's logits for x are not finite,
            or where no attack broke the sample and one met numbers that are not finite.
        distance: float64 [N], of x_adv where broken, 0 where the model was already wrong, else inf.
        by: int64 [N], the attack that found x_adv, as its place among the rows; -1 where none did. Of attacks
            with equal distances, the first.
        component: int64 [N], the component of that attack that did, as its place among the row's
            `components.costs`; -1 where the attack has no components.
        distances: float64 [N, A], those of each attack, as in its row.
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    ids: Tensor
    success: Tensor
    status: Tensor
    distance: Tensor
    by: Tensor
    component: Tensor
    distances: Tensor

    @classmethod
    def together(cls, parts: Sequence["Samples"]) -> "Samples":
        """Return the samples of all parts, in their order.

        Args:
            parts: of the same evaluation.

        Returns:
            One `Samples`.
        """
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def add_components(self, attacks: Sequence[Components | None]) -> None:
        """Fill in `component` from those of each attack.

        Args:
            attacks: the components of each attack; None for one that has none.
        """
        for place, components in enumerate(attacks):
            if components is not None:
                mine = self.by == place
                self.component[mine] = components.by[mine]
