"""How the site is built: `make docs`. What is more than a setting is in `docs/_site/`."""

import json
import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
sys.path[:0] = [str(HERE), str(HERE.parent)]
# a kernel of Jupyter starts in the folder of its notebook, where the checkout is not on the path
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])

import fastadv  # noqa: E402

project = "fastadv"
author = "The fastadv developers"
copyright = author
version = release = fastadv.__version__
urls = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["urls"]
versions = json.loads((HERE / "static" / "versions.json").read_text())

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "_site.extension",
]
source_suffix = {
    ".md": "myst-nb",
    ".rst": "restructuredtext",
}  # the latter for pages of attacks, made at each build
exclude_patterns = ["_site"]
root_doc = "index"
nitpicky = True
smartquotes = False  # they make one dash of the two of an option
# the site is built without network, and so without the inventories of other projects
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|collections|enum|typing|pathlib)\..*"),
    ("py:obj", r".*\.R_co"),
    ("py:class", r"fastadv\.engine\.(capture|prepared)\..*"),  # what the engine keeps for itself
    ("py:class", r"fastadv\.intervals\.Interval"),  # a pair, low and high
    ("py:class", r"fastadv\.attacks\.core\.criterion\.Goal"),  # told where results have it
]
suppress_warnings = ["config.cache"]

# docstrings: Google's sections, and one of our own; names in single backticks are code
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
napoleon_use_ivar = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autosummary_generate = False
add_module_names = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 90

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 1200
nb_merge_streams = True
doctest_test_doctest_blocks = "default"

html_theme = "pydata_sphinx_theme"
html_title = f"fastadv {version}"
html_favicon = "static/logo.svg"
html_search_scorer = str(HERE / "scorer.js")
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "logo": {"image_light": "static/logo.svg", "image_dark": "static/logo.svg", "text": html_title},
    "icon_links": [{"name": "Source", "url": urls["Source"], "icon": "fa-brands fa-github"}],
    # a choice of versions appears with the second of them
    "switcher": {"json_url": "_static/versions.json", "version_match": version},
    "check_switcher": False,
    "navbar_end": ["version-switcher"] * (len(versions) > 1) + ["theme-switcher", "navbar-icon-links"],
    "navbar_align": "left",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_nav_level": 1,
    "header_links_before_dropdown": 8,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}  # as the reader's system is; without it the theme complains
html_sidebars = {"index": []}
