"""What is measured after each epoch."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from fastadv.evaluation import Attack, evaluate


@dataclass(frozen=True)
class Test:
    """The first `limit` images of a data set, clean and under attacks."""

    data: Dataset[Any] | None
    attacks: dict[str, Attack]
    limit: int | None

    def __call__(self, model: nn.Module) -> tuple[float | None, dict[str, float]]:
        """Clean and robust accuracies; None and {} without a data set."""
        if self.data is None:
            return None, {}
        table = evaluate(model, self.data, self.attacks, limit=self.limit)
        return table.clean_accuracy, {row.name: row.robust_accuracy for row in table.rows}
