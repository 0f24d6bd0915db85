"""Certificates: what a smoothed classifier decides, and within which radius nothing can change it."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastadv.text import Cells, Printable, several


@dataclass(frozen=True)
class Certificates(Printable):
    """The result of `fastadv.certify.smooth`, one row for each image; tensors are on the CPU.

    Args:
        ids: int64 [n], positions in the data set, on which the draws depend.
        y: int64 [n], labels.
        prediction: int64 [n], the class of the smoothed classifier.
        radius: float64 [n], within which it cannot change, at least; 0 where it abstained.
        abstained: bool [n], no class was shown to have a probability above one half.
        hits: int64 [n], draws that were given the predicted class.
        draws: int64 [n], draws that bounded its probability, without those that chose it.
        failed: int64 [n], draws whose logits were not finite: votes against.
        radii: those asked for, if any.
        card: how it was made: arguments, machine, versions, date, notes.
    """

    ids: Tensor
    y: Tensor
    prediction: Tensor
    radius: Tensor
    abstained: Tensor
    hits: Tensor
    draws: Tensor
    failed: Tensor
    radii: tuple[float, ...] = ()
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def correct(self) -> Tensor:
        """bool [n]: decided, and for the label."""
        return (self.prediction == self.y) & ~self.abstained

    @property
    def average_radius(self) -> float:
        """The average certified radius: wrong decisions and abstentions count as 0."""
        return float((self.radius * self.correct).mean())

    @property
    def clean_accuracy(self) -> float:
        """The share of images that are decided for their label."""
        return float(self.correct.double().mean())

    def accuracy(self, radius: float) -> float:
        """Return the certified accuracy: the share decided for the label and certified to the radius."""
        return float((self.correct & (self.radius >= radius)).double().mean())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, JSON-able: a list of records, one for each image, and the card."""
        names = ("ids", "y", "prediction", "radius", "abstained", "hits", "draws", "failed")
        columns = [getattr(self, name).tolist() for name in names]
        keys = ("id", "label", *names[2:])
        rows = [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]
        figures = {"average_radius": self.average_radius, "clean_accuracy": self.clean_accuracy}
        return {**self.card, **figures, "certificates": rows}

    def contents(self) -> list[str | Cells]:
        config, notes = self.card["config"], self.card["measured"]["notes"]
        shown = self.radii or [share * config["sigma"] for share in (0.5, 1, 2)]
        early = "; lower bounds all, by a sequential test" if config["sequential"] else ""
        at = ", ".join(f"{self.accuracy(radius):.1%} within {radius:g}" for radius in shown)
        text = (
            f"{several(len(self.ids), 'image')}: {self.clean_accuracy:.1%} correct, {at}; average radius "
            f"{self.average_radius:.3f}; {int(self.abstained.sum())} abstained; "
            f"{float(self.draws.double().mean()):,.0f} draws an image{early}"
        )
        return [text, *(f"note: {note}" for note in notes)]
