"""Figures as files that hold a digest of the rows they show: a test tells whether they are up to date."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import ROOT
from fastadv.runs.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = ROOT / "docs" / "figures"


def digest(shown: Any) -> str:
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def save(figure: "Figure", name: str, shown: Any, folder: Path = FOLDER) -> None:
    with atomic_write(folder / name) as part:
        figure.savefig(
            part, format="png", bbox_inches="tight", pad_inches=0.1, metadata={"Comment": digest(shown)}
        )


def up_to_date(name: str, shown: Any, folder: Path = FOLDER) -> bool:
    """Whether the figure was drawn from these rows."""
    from PIL import Image

    with Image.open(folder / name) as picture:
        return bool(picture.info.get("Comment") == digest(shown))
