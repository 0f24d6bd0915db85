"""A callback of Lightning that measures accuracy under attack on the validation batches."""

from typing import Any

import lightning

from fastadv.evaluation.metrics import RobustAccuracy


class RobustAccuracyCallback(lightning.Callback):  # type: ignore[misc]
    """Log the accuracy under an attack at the end of each validation.

    The module itself is attacked, or its attribute `model` if it has one. A batch begins with images and
    labels.

    Args:
        attack: as `fastadv.evaluation.metrics.RobustAccuracy` takes it.
        name: of the logged value.
        batches: use this many batches of each validation only; None uses all.
    """

    def __init__(self, attack: Any, name: str = "robust_accuracy", batches: int | None = None) -> None:
        self.metric, self.name, self.batches = RobustAccuracy(attack), name, batches

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget the last epoch."""
        self.metric.reset()

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Attack a batch."""
        if self.batches is None or batch_idx < self.batches:
            x, y = batch[:2]
            self.metric.update(getattr(pl_module, "model", pl_module), x, y)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the accuracy of all batches and processes."""
        pl_module.log(self.name, self.metric.compute())
