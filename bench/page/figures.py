"""Figures as files that hold a digest of the rows they show: a test tells whether they are up to date."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import ROOT, Row
from fastadv.evaluation.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = ROOT / "docs" / "figures"
MADE = {"command": "python bench/run.py; python -m bench.page", "seed": "0"}


def digest(shown: Any) -> str:
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def save(figure: "Figure", name: str, shown: Any, folder: Path = FOLDER) -> None:
    """Write the figure with the digest of what it shows; its machine and days are those of the rows."""
    rows = list(_rows(shown))
    days = sorted({row["date"][:10] for row in rows})
    measured = {
        "machine": ", ".join(sorted({row["cpu"] for row in rows})),
        "date": " to ".join(dict.fromkeys((days[0], days[-1]))),
    }
    style.save(figure, folder / name, {**MADE, **measured, "Comment": digest(shown)})


def _rows(shown: Any) -> Iterator[Row]:
    """Yield the rows, however they are nested."""
    if isinstance(shown, dict) and "provider" in shown:
        yield shown
    elif isinstance(shown, dict | list):
        for part in shown.values() if isinstance(shown, dict) else shown:
            yield from _rows(part)


def up_to_date(name: str, shown: Any, folder: Path = FOLDER) -> bool:
    """Whether the figure was drawn from these rows."""
    from PIL import Image

    with Image.open(folder / name) as picture:
        return bool(picture.info.get("Comment") == digest(shown))
