"""How data are read: labels as the criterion takes them, values in the box of the threat."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from fastadv.attacks.core.criterion import WRONG, Criterion, check_criterion, decides_by_class
from fastadv.data._batches import batches
from fastadv.data.given import ANY, CLASSES
from fastadv.data.imageset import UNIT, Box, Boxes, Held
from fastadv.errors import InputError
from fastadv.measure.bound import Attack, Threats, bound, takes, threat_of
from fastadv.threat import Threat


def criterion_of(attacks: Mapping[str, Attack], criterion: Criterion | None = None) -> Criterion:
    """Return the criterion that says which samples are right; InputError where the attacks have several."""
    asked = [
        bound(attack, "criterion")
        for attack in attacks.values()
        if criterion is None or takes(attack, "criterion")
    ]
    if criterion is not None:
        check_criterion(criterion)
        asked.append(criterion)
        if all(one == criterion for one in asked):
            return criterion
    meanings = [WRONG if decides_by_class(one) else one for one in asked] or [WRONG]
    if any(one != meanings[0] for one in meanings):
        raise InputError(
            f"attacks: expected criteria that agree on what is right without an attack, got {asked}; "
            "evaluate them one after the other"
        )
    return meanings[0]


def labels_of(criterion: Criterion) -> str:
    """Return what labels of data a criterion takes."""
    return CLASSES if criterion.outputs == "classes" else ANY


def boxes_of(
    attacks: Mapping[str, Attack], threat: Threats | None = None, recipe: Any = None, dataset: Any = None
) -> dict[str, Box]:
    """Return the boxes in which the data must lie, by the names of their threats.

    They are those of the attacks and the recipe, or else that of `threat`, or else the data set's.
    """
    threats = {f"attacks[{name!r}]": threat_of(attack) for name, attack in attacks.items()}
    threats["the recipe"] = getattr(recipe, "threat", None)
    boxes = {name: one.box for name, one in threats.items() if isinstance(one, Threat)}
    if not boxes and isinstance(threat, Threat):
        return {"threat": threat.box}
    if boxes or dataset is None:
        return boxes
    return {"": dataset.box if isinstance(dataset, Held) else UNIT}


def for_data(criterion: Criterion, dataset: Dataset[Any], box: Boxes) -> Criterion:
    """Return the criterion for labels like those of the data."""
    if criterion.outputs == "classes":
        return criterion
    _, y, _ = next(batches(dataset, 1, workers=0, box=box, labels=labels_of(criterion)))
    return criterion.for_labels(y)
