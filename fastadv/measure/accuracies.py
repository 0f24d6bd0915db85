"""How often a model is right on the samples of a job, without an attack and under each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.measure.batch import Batch
from fastadv.measure.job import Job
from fastadv.measure.outcome import Part, attacked, check_some_ran, joined


@dataclass(frozen=True)
class Accuracies:
    """The labels y [n, ...] of all samples, which of them are right, and what each attack did."""

    y: Tensor
    correct: Tensor  # bool [n]
    parts: Mapping[str, Sequence[Part]]  # by attack, batch after batch

    @property
    def clean(self) -> float:
        """The share of samples that are right without an attack."""
        return self.correct.double().mean().item()

    def under(self, name: str) -> float:
        """Return the share of samples that stay right; NaN where the attack does not serve its threat."""
        parts = self.parts[name]
        if any("refused" in part.notes for part in parts):
            return math.nan
        return (self.correct & ~joined(parts, "broken")).double().mean().item()


def accuracies(job: Job) -> Accuracies:
    """Measure a model; InputError where it has finite logits for no sample."""

    def measured(batch: Batch) -> tuple[Tensor, Tensor, Tensor, list[Part]]:
        parts = [attacked(job, name, attack, batch)[0] for name, attack in job.attacks.items()]
        check_some_ran(parts)
        return batch.y.cpu(), batch.correct.cpu(), batch.failed.cpu(), parts

    labels, right, failed, parts = zip(*job.results(measured), strict=True)
    job.check_finite(len(torch.cat(failed)), int(torch.cat(failed).sum()))
    by_attack = dict(zip(job.attacks, zip(*parts, strict=True), strict=False))
    return Accuracies(torch.cat(labels), torch.cat(right), by_attack)
