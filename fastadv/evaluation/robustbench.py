"""RobustBench: its tables, the accuracy under corruptions, and the entry of a model.

The layout is that of github.com/RobustBench/robustbench (Croce et al. 2021): one JSON file in
model_info/DATASET/NORM/, shares as percentages in text.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.data import load
from fastadv.data.cifar_c import CORRUPTIONS, SETS, SEVERITIES
from fastadv.engine import Prepared, prepare
from fastadv.errors import InputError
from fastadv.evaluation.measure import evaluate
from fastadv.text import radius_text
from fastadv.threat import Threat

# the radius of each table of images under attack; those of corruptions have none
RADII = {
    ("cifar10", "linf"): 8 / 255,
    ("cifar10", "l2"): 0.5,
    ("cifar100", "linf"): 8 / 255,
    ("imagenet", "linf"): 4 / 255,
}
# how many images its accuracies are of; of corruptions, each at each severity
IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
# the data set of each table of corruptions, and that of its clean accuracy
CORRUPTED = {"cifar10c": "cifar10", "cifar100c": "cifar100"}
# what a run cannot know: whoever submits the entry says it
TEXTS = ("link", "name", "authors", "venue", "architecture", "reported", "footnote")
SAID = (*TEXTS, "additional_data", "number_forward_passes")
# in the order of RobustBench; each entry has one of the two accuracies, and only attacks are unreliable
FIELDS = (
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
    "architecture", "eps", "clean_acc", "reported", "corruptions_acc", "autoattack_acc", "footnote",
    "unreliable",
)  # fmt: skip


def entry(
    dataset: str,
    architecture: str,
    clean_accuracy: float,
    accuracy: float,
    threat: Threat | None = None,
    *,
    unreliable: bool = False,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the entry of a model for RobustBench, its fields in RobustBench's order, None where not given.

    Accuracies are shares; `accuracy` is that under `autoattack(version="standard")` in `threat`, or without a
    threat that under corruptions. unreliable: whether AutoAttack raised a flag. about: fields of `SAID`.
    """
    strange = sorted((about or {}).keys() - set(SAID))
    if strange:
        raise InputError(f"about: expected fields among {', '.join(SAID)}, got {', '.join(strange)}")
    left_out = {"corruptions_acc"} if threat else {"autoattack_acc", "unreliable"}
    measured: dict[str, Any] = {
        "dataset": dataset,
        "architecture": architecture,
        "eps": threat and radius_text(threat),
        "clean_acc": _percentage(clean_accuracy),
        "autoattack_acc" if threat else "corruptions_acc": _percentage(accuracy),
    }
    if threat:
        measured["unreliable"] = unreliable
    return {field: None for field in FIELDS if field not in left_out} | measured | dict(about or {})


@dataclass(frozen=True)
class Corrupted:
    """Accuracy under each common corruption at each severity."""

    accuracy: Tensor  # float64 [15, 5], corruptions in RobustBench's order, severities from 1 to 5
    images: int  # for each corruption and severity

    @property
    def mean(self) -> float:
        """The accuracy of RobustBench's table: the mean over all corruptions and severities."""
        return self.accuracy.mean().item()

    def to_dict(self) -> dict[str, Any]:
        """Return the accuracies as a dictionary for JSON."""
        rows = zip(CORRUPTIONS, self.accuracy.tolist(), strict=True)
        return {"corruptions_accuracy": self.mean, "corruptions": dict(rows), "images": self.images}


def shortage(name: str, images: int) -> str:
    """Return what keeps a result on so many images from being one of RobustBench; "" where they are all.

    name: of a data set in `IMAGES` or `CORRUPTED`; of any other it has no table, and "" is returned.
    """
    needed = IMAGES.get(CORRUPTED.get(name, name), images)
    if images == needed:
        return ""
    missing = f"{needed - images:,} are missing" if images < needed else "these are others"
    return f"RobustBench's accuracies are of {needed:,} images of {name}, got {images:,}: {missing}"


def corruptions(
    model: nn.Module | Prepared,
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = 256,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Corrupted:
    """Measure the accuracy under all fifteen corruptions at all five severities.

    Args:
        model: a module or Frozen; x [B, 3, 32, 32] in [0, 1] to logits [B, K].
        name: "cifar10c" or "cifar100c".
        data_dir: the folder of the data sets; see `fastadv.data.load`.
        batch_size: images passed at once.
        limit: use the first images of each corruption and severity only, this many; None uses all.
        progress: called with (done, total).

    Returns:
        An object with `mean`, the accuracy of RobustBench's table, and `accuracy`, float64 [15, 5] by
        corruption and severity.

    Raises:
        InputError: the name is unknown, a file is missing, or one of the errors of `evaluate`.

    Source:
        Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions" (arXiv
        1903.12261).
    """
    if name not in SETS:
        raise InputError(f"name: expected one of {', '.join(SETS)}, got {name!r}")
    frozen, shares = prepare(model, freeze=True), []
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            which = f"{name}:corruption={corruption},severity={severity}"
            dataset = load(which, "test", data_dir, limit=limit)
            shares.append(evaluate(frozen, dataset, batch_size=batch_size).clean_accuracy)
            if progress is not None:
                progress(len(shares), len(CORRUPTIONS) * len(SEVERITIES))
    accuracy = torch.tensor(shares, dtype=torch.float64).view(len(CORRUPTIONS), len(SEVERITIES))
    return Corrupted(accuracy, len(dataset))


def _percentage(share: float) -> str:
    return f"{100 * share:.2f}"
