"""Executed pages as notebooks to download."""

import re
from pathlib import Path

from sphinx.application import Sphinx

OFFER = "Download this page as a notebook"


def offer(app: Sphinx, name: str, source: list[str]) -> None:
    """Offer the notebook below the title of a tutorial and of the quickstart."""
    if name.startswith(("tutorials/", "start/")) and source[0].startswith("---\nfile_format: mystnb"):
        link = f"{{nb-download}}`{OFFER} <{name.split('/')[-1]}.ipynb>`"
        source[0] = re.sub(r"^# .+$", rf"\g<0>\n\n{link}", source[0], count=1, flags=re.MULTILINE)


def in_jupyter(app: Sphinx, error: Exception | None) -> None:
    """Write the site's roles and links as plain text, which is all that Jupyter knows of them."""
    for path in Path(app.outdir).glob("_downloads/*/*.ipynb"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(rf'\s*"{{nb-download}}`{OFFER}[^"]*",', "", text)
        text = re.sub(r"\{[\w:-]+\}`~?([^`<]+?)(?: <[^`]*>)?`", r"`\1`", text)
        path.write_text(re.sub(r"\[([^\]]+)\]\([^)]+\.md[^)]*\)", r"\1", text), encoding="utf-8")
