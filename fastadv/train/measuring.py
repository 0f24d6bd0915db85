"""What is measured after each epoch."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from fastadv import rng
from fastadv.attacks.core.criterion import WRONG, Criterion
from fastadv.data import batches
from fastadv.data.content import describe_set
from fastadv.data.imageset import Boxes
from fastadv.data.sampling import first_samples
from fastadv.engine import prepare
from fastadv.engine.prepare import WORTH
from fastadv.errors import InputError
from fastadv.measure.accuracies import accuracies
from fastadv.measure.bound import Attack
from fastadv.measure.job import Job, check_evaluation
from fastadv.measure.reading import labels_of
from fastadv.runs import processes
from fastadv.train._steps import Steps
from fastadv.train.options import Measuring
from fastadv.train.recipes import Crafted
from fastadv.train.recipes._followers import follower
from fastadv.train.recipes.base import innermost, labels_or_outputs

logger = logging.getLogger("fastadv")
BATCH_SIZE = 256
OWN_LIMIT = 512  # images for the recipe's own examples: enough to show a collapse by tens of per cent


def _draw_alike(steps: Steps) -> None:
    """Let a model that draws when it is tested draw the same in every epoch; a run keeps the generators."""
    rng.seed_all(rng.derive(steps.feed.seed, "measured"), steps.feed.device)


@dataclass(frozen=True)
class Measure:
    """`limit` images of a data set, as `evaluate` takes them, clean and under attacks; checked."""

    data: Dataset[Any] | None
    attacks: dict[str, Attack]
    limit: int | None
    box: Boxes
    criterion: Criterion = WRONG

    def __post_init__(self) -> None:
        if self.data is not None:
            check_evaluation(self.data, BATCH_SIZE, self.limit)
        elif self.attacks:
            raise InputError(
                "test_attacks: expected a test_set to attack, got None; pass test_set=, or validation_set="
            )

    @property
    def size(self) -> int:
        size = 0 if self.data is None else len(self.data)  # type: ignore[arg-type]
        return size if self.limit is None else min(size, self.limit)

    def __call__(self, steps: Steps) -> dict[str, Any]:
        """Measure the model, and its moving average."""
        names = ("clean_accuracy", "robust_accuracy", "worst_recall")
        measured = dict(zip(names, self._accuracies(steps), strict=False))
        if steps.average is not None:
            with steps.average.in_model():
                averaged = zip(names, self._accuracies(steps), strict=False)
            measured |= {f"ema_{name}": value for name, value in averaged}
        return measured

    def _accuracies(self, steps: Steps) -> tuple[float | None, dict[str, float], float | None]:
        if self.data is None:
            return None, {}, None
        _draw_alike(steps)
        # the processes have the same model and data, by the check at the start of the run
        frozen = prepare(steps.model, work=WORTH, outputs=self.criterion.outputs)
        criterion = self.criterion.meant_by(frozen.model)
        job = Job(frozen, self.data, self.attacks, BATCH_SIZE, self.limit, self.box, criterion)
        measured, worst = accuracies(job), None
        if self.criterion.outputs == "classes":
            counts = measured.y.bincount()
            worst = float((measured.y.bincount(measured.correct) / counts)[counts > 0].min())
        return measured.clean, {name: measured.under(name) for name in self.attacks}, worst

    def own_accuracy(self, steps: Steps) -> float | None:
        """Measure the accuracy on the recipe's own examples, of several threats on all of a sample.

        None if it crafts none, and without attacks.
        """
        recipe = innermost(steps.recipe)
        if self.data is None or not self.attacks or not isinstance(recipe, Crafted):
            return None
        _draw_alike(steps)
        size, right = min(self.size, OWN_LIMIT), 0
        seed = rng.derive(steps.feed.seed, "own examples")
        criterion, order = self.criterion, first_samples(self.data, size)
        frozen, kind = follower(steps.model, criterion.outputs), labels_of(criterion)
        for batch in batches(self.data, BATCH_SIZE, order=order, box=self.box, labels=kind):
            x, y, ids = (tensor.to(steps.feed.device) for tensor in batch)
            y = labels_or_outputs(criterion, steps.model, x, y)
            labels = criterion.labels("test_set", y, len(y), y.device)
            assert labels is not None
            held = torch.ones_like(ids, dtype=torch.bool)
            for one in recipe.each():
                logits = frozen(one.craft(steps.model, x, labels, ids=ids, seed=seed))
                held &= criterion.right(logits, labels) & logits.isfinite().all(1)
            right += int(held.sum())
        return right / size


class Measures:
    """The accuracies in a report: of the test set, and of the images held out to `judge` the run by."""

    def __init__(
        self, test_set: Dataset[Any] | None, attacks: dict[str, Attack], measuring: Measuring, box: Boxes,
        criterion: Criterion = WRONG,
    ) -> None:  # fmt: skip
        held_out = measuring.validation_set
        if held_out is not None and not attacks:
            raise InputError(
                "validation_set: expected test_attacks, by which the best epoch is chosen, got none; "
                "pass test_attacks=, or leave out validation_set"
            )
        of_test = {} if test_set is None and held_out is not None else attacks
        self.test = Measure(test_set, of_test, measuring.test_limit, box, criterion)
        self.validation = None if held_out is None else Measure(held_out, attacks, None, box, criterion)
        self.on_event = measuring.on_event if not processes.rank() else None
        self.judge, self.every = self.validation or self.test, measuring.test_every
        self.chosen_on = ("test_set" if self.validation is None else "validation_set") if attacks else None

    def describe(self, held_out: str | None) -> dict[str, Any]:
        """Return what a card says of the images that chose the best epoch."""
        about: dict[str, Any] = {"chosen_on": self.chosen_on}
        if self.validation is not None:
            about["validation"] = describe_set(self.validation.data, held_out)
        return about

    def warn(self) -> None:
        """Log a warning where the test set chooses the weights that are kept."""
        if self.chosen_on == "test_set" and not processes.rank():
            logger.warning(
                "the best epoch is chosen on the test set, so its accuracy under attack there is optimistic; "
                "hold images out with Measuring(validation_set=...)"
            )

    def __call__(self, steps: Steps) -> dict[str, Any]:
        measured = self.test(steps)
        if self.validation is not None:
            held_out = self.validation(steps)
            measured |= {f"validation_{name}": value for name, value in held_out.items()}
        return measured | {"own_accuracy": self.judge.own_accuracy(steps)}
