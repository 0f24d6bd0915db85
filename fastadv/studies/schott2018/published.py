"""The figures that the paper's authors published: accuracy against distance, all attacks together.

published.csv holds the data behind figure 2 of the paper, one line for each point of a curve. The second
author published it in github.com/jonasrauber/analysis-by-synthesis (commit 1b2feb7), in the files
figures/*_accuracy_distortion_curves.pickle; distances are rounded to six digits here. The accuracies at the
thresholds stand in the same files.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SOURCE = "Schott et al. 2018, figure 2, from github.com/jonasrauber/analysis-by-synthesis"
THRESHOLDS = {"l2": 1.5, "linf": 0.3, "l0": 12.0}
"""The distance in each norm at which the paper compares accuracies."""
TITLES = {
    "cnn": "CNN",
    "binary_cnn": "Binary CNN",
    "nearest_neighbor": "Nearest Neighbor",
    "madry": "Madry et al.",
    "binary_abs": "Binary ABS",
    "abs": "ABS",
}
"""The models by their names here, as the paper calls them."""
ACCURACIES = {
    "l2": (0.08, 0.03, 0.5276, 0.35, 0.39, 0.7993),
    "linf": (0.0, 0.63, 0.2156, 0.8714, 0.77, 0.08),
    "l0": (0.19, 0.38, 0.34, 0.0, 0.77, 0.69),
}


@dataclass(frozen=True)
class Published:
    """A published curve: accuracy (from 0 to 1) at each distance, and the accuracy at the threshold."""

    distance: tuple[float, ...]
    accuracy: tuple[float, ...]
    at_threshold: float

    @property
    def median(self) -> float:
        """The distance at which half of the images are broken."""
        return next(d for d, share in zip(self.distance, self.accuracy, strict=True) if share <= 0.5)


@cache
def published() -> dict[tuple[str, str], Published]:
    """Return the curve of each (norm, model)."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    text = (files("fastadv.studies.schott2018") / "published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        point = float(row["distance"]), float(row["accuracy_percent"]) / 100
        points.setdefault((row["norm"], row["model"]), []).append(point)
    found = {}
    for (norm, model), curve in points.items():
        distance, accuracy = zip(*curve, strict=True)
        at_threshold = ACCURACIES[norm][list(TITLES).index(model)]
        found[norm, model] = Published(distance, accuracy, at_threshold)
    return found
