"""A finished evaluation as one HTML file, which needs nothing beside it: no script, no font, no request.

`template.html` and `style.css` say how it looks, the modules what it holds. What was not measured is left
out, and the page says so.
"""

from fastadv.evaluation.report.page import check_path, report

__all__ = ["check_path", "report"]
