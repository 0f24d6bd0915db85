"""Samples that a classifier knows, which attacks that run others hand on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.attacks.core.checks import check_images
from fastadv.engine import Model, Prepared
from fastadv.engine.mapped import Mapped
from fastadv.threat import Through


@dataclass(frozen=True, eq=False)
class Classified:
    """Samples that a classifier has classified, which attacks take in place of the model.

    Attributes:
        classifier: what answers; of a map of parameters, about these.
        x: [B, ...], the clean samples, or the parameters that leave them as they are.
        ids: int64 [B], sample numbers.
        rows: int64 [B], the places of the samples in the batch that the classifier knows.
        clean: [B, K], the logits of the model as given at x; None before it has seen x.
    """

    classifier: Prepared
    x: Tensor
    ids: Tensor
    rows: Tensor
    clean: Tensor | None

    @property
    def box(self) -> tuple[float, float] | None:
        """The box in which x is known to lie, if any."""
        return None

    def serves(self, classifier: Prepared) -> bool:
        """Return whether the logits here are those of another classifier of the same model."""
        mine = self.classifier
        return classifier.source is mine.source and classifier.outputs == mine.outputs

    def __call__(self, points: Tensor) -> Tensor:
        """Return the logits at points of these samples, as a search asks for them."""
        return self.classifier(points, self.rows)


def classified(
    model: Model | Prepared | Classified, classifier: Prepared, given: Tensor, x: Tensor, ids: Tensor | None
) -> Classified:
    """Return the samples x, checked of the `given` ones, with what a model that stands for them knows."""
    rows = torch.arange(x.shape[0], device=x.device)
    ids = rows if ids is None else ids
    if not isinstance(model, Classified) or not torch.equal(ids, model.ids):
        return Classified(classifier.of(x, ids), x, ids, rows, None)
    clean = model.clean if given is model.x and model.serves(classifier) else None
    if classifier is model.classifier:
        return Classified(classifier, x, ids, model.rows, clean)
    return Classified(classifier.of(x, ids), x, ids, rows, clean)


def before(held: Classified, threat: Through) -> Classified:
    """Return the parameters that leave samples as they are, for a classifier of what a map makes of them."""
    mapped = Mapped(held.classifier, threat, held.x, held.ids)
    t = check_images(threat.parameters(held.x, held.ids), threat.ball.box)
    return Classified(mapped, t, held.ids, torch.arange(len(t), device=t.device), None)
