"""Points of a box as the image of all w (Carlini and Wagner 2017, section V.B)."""

import math

from torch import Tensor

from fastadv.threat import Threat


class TanhSpace:
    """z = center + half * tanh(w), where half is `wider` than that of the box by a share.

    `inside` is the share of the way from the center at which the w of a point is taken: where it is 1, that
    of an edge of a box that is not wider is infinite. Where an edge of the box is infinite, z = w.
    """

    def __init__(self, threat: Threat, wider: float = 0.0, inside: float = 1.0) -> None:
        self.low, self.high = threat.box
        self.bounded = math.isfinite(self.high - self.low)
        if self.bounded:
            self.center, self.half = (self.low + self.high) / 2, (1 + wider) * (self.high - self.low) / 2
            self.most, self.inside = inside / (1 + wider), inside

    def inverse(self, z: Tensor) -> Tensor:
        """Return the w of points z."""
        return ((z - self.center) / self.half * self.inside).atanh() if self.bounded else z.clone()

    def bend(self, w: Tensor) -> Tensor:
        """Return tanh(w), from which `points` and `steepness` follow."""
        return w.tanh() if self.bounded else w

    def points(self, bent: Tensor) -> Tensor:
        """Return the points of the box."""
        return (self.center + self.half * bent if self.bounded else bent).clamp(self.low, self.high)

    def steepness(self, bent: Tensor) -> Tensor | float:
        """Return the derivative of the points with respect to w."""
        return self.half * (1 - bent * bent) if self.bounded else 1.0

    def keep_(self, w: Tensor) -> None:
        """Move w to where the points lie in the box."""
        if self.bounded:
            most = math.atanh(self.most)
            w.clamp_(-most, most)
        else:
            w.clamp_(self.low, self.high)
