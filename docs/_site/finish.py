"""What the theme and Sphinx leave to do for readers with a screen reader, page by page."""

import re
from pathlib import Path

from sphinx.application import Sphinx

SIGNATURE = re.compile(r"<dl>\s*((?:<dd>.*?</dd>\s*)+)</dl>", re.DOTALL)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Name controls, and make the arguments of a signature lines of their own."""
    if error is None and app.builder.name == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text(encoding="utf-8")
            if (done := _finished(text)) != text:
                path.write_text(done, encoding="utf-8")


def _finished(text: str) -> str:
    # all that is visible of the button
    text = re.sub(r'(search-button-field [^>]*aria-label="Search)"', r'\1 Ctrl+K"', text)
    text = text.replace("<summary><span", '<summary aria-label="Pages below"><span')
    # a list of definitions without terms
    text = SIGNATURE.sub(lambda found: _spans(found[1]), text)
    return text.replace("</strong> -- ", "</strong> – ")


def _spans(items: str) -> str:
    return f'<span class="arguments">{items.replace("dd>", "span>")}</span>'
