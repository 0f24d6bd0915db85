"""Measured tables live in `bench/results/` and `papers/results/`; pages of the site include them.

A link of the docs names the file itself, so that it also works in the repository.
"""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the tests have no Sphinx
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?:\.\./)+(?:bench|papers)/(results/\w+\.md)")
INCLUDED = re.compile(r"\{include\} \.\./\.\./(\S+)")
DAY = re.compile(r"\b20\d\d-\d\d-\d\d\b")
PATHS = ("fastadv/attacks", "fastadv/engine", "fastadv/ops", "fastadv/threat", "csrc")  # what rows run


def to_pages(app: "Sphinx", name: str, source: list[str]) -> None:
    """Lead links to these folders to the pages of the site, and say on these which rows are old."""
    source[0] = LINK.sub(r"](/\1", source[0])
    if name.startswith("results/"):
        text = "".join((ROOT / path).read_text() for path in INCLUDED.findall(source[0]))
        source[0] += old(DAY.findall(text), changed())


def old(days: list[str], since: str) -> str:
    """Return a sentence on the days before the one on which the code changed; "" without any."""
    before = sorted({day for day in days if since and day < since})
    if not before:
        return ""
    span = " to ".join(dict.fromkeys((before[0], before[-1])))
    told = f"Rows of {span} are of an earlier version: the code they run changed on {since}."
    return f"\n```{{note}}\n{told}\n```\n"


@cache
def changed() -> str:
    """Return the day on which the code that rows run last changed; "" where git does not tell."""
    command = ["git", "log", "-1", "--format=%cs", "--", *PATHS]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
