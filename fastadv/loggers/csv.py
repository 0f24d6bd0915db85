"""Events as lines of a CSV file."""

import csv
import io
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from fastadv.loggers.event import flat
from fastadv.runs.files import write_text


class CSV:
    """Write every event as a line, with a column for each name; the file is whole after each of them.

    What an earlier run wrote there stays.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]

    def on_event(self, event: Mapping[str, Any], /) -> None:
        """Write one line.

        Args:
            event: numbers and text by name.
        """
        self.rows.append(flat(event))
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())
