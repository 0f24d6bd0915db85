"""CleanPass: one forward pass of the model as given, for the clean verdict and the first gradient."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastadv import losses
from fastadv.engine.bound import Gradient
from fastadv.engine.precision import no_autocast, with_gradient
from fastadv.engine.room import ran_out


@dataclass
class CleanPass:
    """Logits of a pass at x that waits for its backward pass."""

    plain: Any
    x: Tensor
    leaf: Tensor
    attached: Tensor
    logits: Tensor

    def gradient(
        self, rows: Tensor | None, y: Tensor, loss: losses.Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        """Return the same as `Prepared.input_gradient` at the rows int64 [n], None for all; once."""
        plain, logits = self.plain, self.logits if rows is None else self.logits[rows]
        with with_gradient(), no_autocast(self.x.device.type):
            value, by_logits = losses.loss_and_grad(logits, y, loss, targets, direction)
            if rows is not None:
                by_logits = torch.zeros_like(self.logits).index_copy_(0, rows, by_logits.to(self.logits))
            try:
                # in the dtype that the model sees: half precision of x may hold less
                gradient = plain.pull(self.leaf, self.attached, by_logits)
                plain.backwards += len(self.x)
                return value, logits, gradient if rows is None else gradient[rows]
            except Exception as error:
                if callable(loss) or not ran_out(error):
                    raise
        # only here: the error holds on to what the pass had in memory
        self.attached = self.logits  # lets go of the graph
        x = self.x if rows is None else self.x[rows]
        found: Gradient = plain.input_gradient(x, y, loss, targets, direction)
        return found
