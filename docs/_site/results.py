"""Measured tables live in `bench/results/`; the site shows them on pages that include them.

A link of the docs names the file itself, so that it also works in the repository.
"""

import re

from sphinx.application import Sphinx

LINK = re.compile(r"\]\((?:\.\./)+bench/(results/\w+\.md)")


def to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Lead links to `bench/results/` to the pages of the site."""
    source[0] = LINK.sub(r"](/\1", source[0])
