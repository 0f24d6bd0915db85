"""The results of a study in its folder, for programs and for readers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastadv.runs.files import write_json, write_text
from fastadv.runs.keeper import Keeper

RESULTS, REPORT = "results.json", "report.md"


def publish(keeper: Keeper, result: Mapping[str, Any], report: str | None = None) -> None:
    """Write the card of a study as results.json, and its report in Markdown, if it has one, as report.md.

    Raises OSError, saying what to do, where the disk is full.
    """
    keeper.result(RESULTS, partial(write_json, value=result))
    if report is not None:
        keeper.result(REPORT, partial(write_text, text=report))
