"""External links: listed, not followed, so that a build needs no network."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def list_links(app: Sphinx, error: Exception | None) -> None:
    """Write the pages' external links to `links.txt` beside the site, each with the pages that have it."""
    if error is not None or app.builder.name != "html":
        return
    found: dict[str, set[str]] = {}
    for page in sorted(app.env.found_docs):
        for link in app.env.get_doctree(page).findall(nodes.reference):
            address = link.get("refuri", "")
            if address.startswith(("http://", "https://")):
                found.setdefault(address, set()).add(page)
    lines = [f"{address}  {', '.join(sorted(pages))}\n" for address, pages in sorted(found.items())]
    Path(app.outdir, "links.txt").write_text("".join(lines))
