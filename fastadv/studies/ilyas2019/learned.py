"""What is learned of the classes of section 4 at a radius."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastadv.studies.ilyas2019.checks import apart


@dataclass(frozen=True, eq=False)
class Learned:
    """Robust classes: by theorem 2, in a ball, and by adversarial training in that ball.

    gradient [2]: the input gradient of the trained classifier, as the library's attacks see it.
    """

    radius: float
    penalty: float
    theorem: Tensor
    ball_mean: Tensor
    ball: Tensor
    trained_mean: Tensor
    trained: Tensor
    gradient: Tensor

    def as_json(self) -> dict[str, Any]:
        told = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        penalty = self.penalty if math.isfinite(self.penalty) else None
        return {**told, "penalty": penalty, "apart": apart(self.theorem, self.ball)}
