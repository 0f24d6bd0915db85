"""Executed pages as notebooks to download."""

import json
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
        book = json.loads(path.read_text(encoding="utf-8"))
        for cell in book["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = _plain("".join(cell["source"]))
        path.write_text(json.dumps(book), encoding="utf-8")


def _plain(text: str) -> str:
    text = re.sub(rf"\{{nb-download\}}`{OFFER}.*\n+", "", text)
    text = re.sub(r"\{[\w:-]+\}`~?([^`<]+?)(?: <[^`]*>)?`", r"`\1`", text)
    return re.sub(r"\[([^\]]+)\]\([^)]+\.md[^)]*\)", r"\1", text)
