"""The extension of Sphinx: docstrings, registries, notebooks, a list of links."""

from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from _site.attacks import explain, write_pages
from _site.docstrings import to_rst
from _site.finish import finish
from _site.links import list_links
from _site.notebooks import in_jupyter, offer
from _site.results import to_pages
from _site.tables import TABLES


class Table(SphinxDirective):
    """The directive `registry`: parse the Markdown of a table where it stands."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the table."""
        return self.parse_text_to_nodes(TABLES[self.arguments[0]](), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register them."""
    app.connect("autodoc-process-docstring", explain, priority=50)
    app.connect("autodoc-process-docstring", to_rst, priority=100)  # before napoleon
    app.connect("builder-inited", write_pages)
    app.connect("source-read", to_pages)
    app.connect("source-read", offer)
    app.connect("build-finished", list_links)
    app.connect("build-finished", in_jupyter)
    app.connect("build-finished", finish)
    app.add_directive("registry", Table)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
