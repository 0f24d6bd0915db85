"""What was measured, as JSON lines: one row for each attack of a package on a net, at a radius."""

import json
from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Any

from tests.parity.models import ROOT

Row = dict[str, Any]
STORES = {
    "full": ROOT / "bench" / "results" / "parity.jsonl",
    "quick": ROOT / "tests" / "attacks" / "parity.jsonl",
}
KEY = ("net", "variant", "case", "radius", "package", "settings")


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[part] for part in KEY)


def stored(path: Path) -> list[Row]:
    """The rows of a file; a distance of inf, which JSON does not know, is null there."""
    rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for row in rows:
        row.update({name: inf for name in ("radius", "median") if row.get(name, 0) is None})
        if "distances" in row:
            row["distances"] = [inf if distance is None else distance for distance in row["distances"]]
    return rows


def save(rows: Iterable[Row], path: Path) -> None:
    """One sorted line for each row, of rows with one key the last: a changed row is a changed line."""
    newest = {key(row): row for row in rows}
    lines = (json.dumps(row, ensure_ascii=False).replace("Infinity", "null") for row in newest.values())
    path.write_text("".join(f"{line}\n" for line in sorted(lines)))
