"""RobustBench: its tables of images under attack, and the entry of a model.

The layout is that of github.com/RobustBench/robustbench (Croce et al. 2021): one JSON file in
model_info/DATASET/NORM/, shares as percentages in text.
"""

from collections.abc import Mapping
from math import isclose
from typing import Any

from fastadv._checks import check_share
from fastadv.errors import InputError
from fastadv.text import radius_text
from fastadv.threat import Threat

# the radius of each table
RADII = {
    ("cifar10", "linf"): 8 / 255,
    ("cifar10", "l2"): 0.5,
    ("cifar100", "linf"): 8 / 255,
    ("imagenet", "linf"): 4 / 255,
}
# images of which its accuracies are
IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
# in RobustBench's order; what a run cannot know, whoever submits the entry says
FIELDS = (
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
    "architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
)  # fmt: skip


def entry(
    dataset: str, architecture: str, clean_accuracy: float, accuracy: float, threat: Threat, *,
    unreliable: bool = False, about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make the entry of a model for RobustBench, its fields in RobustBench's order, None where not given."""
    # RobustBench has one radius for a data set and norm
    radii = {norm: radius for (name, norm), radius in RADII.items() if name == dataset}
    if radii and not isclose(threat.radius, radii.get(threat.norm.lower(), 0.0), rel_tol=1e-6):
        tables = " and ".join(f"{norm} {radius:.4g}" for norm, radius in radii.items())
        raise InputError(
            f"threat: expected one of RobustBench's tables of {dataset}, {tables}, got {threat}; "
            "give an entry at another radius another name of the data set"
        )
    for name, share in (("clean_accuracy", clean_accuracy), ("accuracy", accuracy)):
        check_share(name, share, zero=True, one=True)
    measured = {
        "dataset": dataset,
        "architecture": architecture,
        "eps": radius_text(threat),
        "clean_acc": f"{100 * clean_accuracy:.2f}",
        "autoattack_acc": f"{100 * accuracy:.2f}",
        "unreliable": unreliable,
    }
    others = [field for field in FIELDS if field not in measured]
    if strange := sorted((about or {}).keys() - set(others)):
        raise InputError(f"about: expected fields among {', '.join(others)}, got {', '.join(strange)}")
    return dict.fromkeys(FIELDS) | measured | dict(about or {})


def shortage(name: str, images: int) -> str:
    """Return why a result on so many images is none of RobustBench's for the data set `name`; "" if it is."""
    needed = IMAGES.get(name, images)
    if images == needed:
        return ""
    missing = f"{needed - images:,} are missing" if images < needed else "these are others"
    return f"RobustBench's accuracies are of {needed:,} images of {name}, got {images:,}: {missing}"
