"""Where rows are, what is read from them, and how options are, without importing torch."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
# modules of bench/subjects/, in the order in which they run
ON_GPU = ("correctness", "ops", "attacks", "training", "abs", "construct", "certify")
ON_CPU = ("ops", "attacks", "training", "construct", "certify", "memory", "abs", "large", "startup")


def parser(doc: str | None, **more: Any) -> argparse.ArgumentParser:
    """Make the parser of a script whose docstring is its help."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, **more
    )


def recorded(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of JSON lines, without a line that a kill cut short."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def broken(row: Row) -> bool:
    """Whether the row is a failure or an error of ours; a peer that fails is no failure."""
    ours = "error" in row and str(row.get("provider", "")).startswith("fastadv")
    return row.get("status") == "failed" or ours
