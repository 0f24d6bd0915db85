"""Measured tables live in `bench/results/` and `papers/results/`; pages of the site include them.

A link of the docs names the file itself, so that it also works in the repository.
"""

import re

from sphinx.application import Sphinx

LINK = re.compile(r"\]\((?:\.\./)+(?:bench|papers)/(results/\w+\.md)")


def to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Lead links to these folders to the pages of the site."""
    source[0] = LINK.sub(r"](/\1", source[0])
