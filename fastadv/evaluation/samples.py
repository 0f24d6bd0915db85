"""The samples behind the figures of an evaluation, with their adversarial examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.evaluation.components import Components


@dataclass(frozen=True)
class Examples:
    """The first samples that an attack broke.

    x and x_adv [N, ...], y, the clean and the adversarial predictions, ids [N].
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    clean_prediction: Tensor
    prediction: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Samples:
    """Every sample with the nearest of the adversarial examples that the attacks gave.

    x, x_adv [N, ...], y, ids [N]. x_adv is x where no attack broke the sample.
    success    bool [N]; broken, or wrong already.
    status     int64 [N] of `fastadv.attacks.Status`; FAILED where the model's logits for x are not finite, or
               where no attack broke the sample and one met numbers that are not finite.
    distance   float64 [N]; of x_adv where broken, 0 where the model was wrong already, else inf.
    by         int64 [N]; the attack that gave x_adv, as its place among the rows; -1 where none did. Of
               attacks that come equally near it is the first.
    component  int64 [N]; the component of that attack that did, as its place among the row's
               `components.costs`; -1 where the attack has no components.
    distances  float64 [N, A]; those of each attack, as in its row.
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
        """Return the samples of all parts, in their order."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def add_components(self, attacks: Sequence[Components | None]) -> None:
        """Fill in `component` from those of each attack, None for one that has none."""
        for place, components in enumerate(attacks):
            if components is not None:
                mine = self.by == place
                self.component[mine] = components.by[mine]
