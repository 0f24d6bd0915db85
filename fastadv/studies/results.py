"""The results of a study in its folder, for programs and for readers."""

from collections.abc import Mapping
from typing import Any

from fastadv.runs.files import write_json, write_text
from fastadv.runs.folder import RunFolder

RESULTS, REPORT = "results.json", "report.md"


def publish(folder: RunFolder, result: Mapping[str, Any], report: str | None = None) -> None:
    """Write the card of a study as results.json, and its report in Markdown, if it has one, as report.md.

    OSError, saying what to do, where the disk is full.
    """
    with folder.result(RESULTS) as path:
        write_json(path, result)
    if report is not None:
        with folder.result(REPORT) as path:
            write_text(path, report)
