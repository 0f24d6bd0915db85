"""A line of the study's tables."""

from dataclasses import dataclass

Paper = tuple[float | None, float | None]
UNKNOWN: Paper = (None, None)


@dataclass(frozen=True)
class Line:
    """An error (or an agreement) and a mean confidence, as shares; and the paper's, None where it has none.

    share is None where there was nothing to count. confidence is that on mistakes; on clean images that on
    all.
    """

    part: str
    what: str
    share: float | None
    confidence: float | None = None
    paper: Paper = UNKNOWN
