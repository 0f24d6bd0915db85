"""Docstrings as reStructuredText.

They are plain text with names in backticks, lists and indented code. Bars, stars and trailing underscores,
which reStructuredText would take for markup, stand for themselves.
"""

import re
from typing import Any

CODE = re.compile(r"(\w?)(:[\w:]+:)?``?([^`]+)``?(\w?)")
MARKUP = re.compile(r"[|*\\]|(?<=\w)_(?!\w)")
SECTIONS = {"Args:", "Attributes:", "Returns:", "Raises:", "Yields:", "Example:", "Source:"}


def to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place: the event `autodoc-process-docstring`."""
    lines[:] = converted("\n".join(lines)).split("\n")
    if what in ("attribute", "data", "property"):
        lines[0] = lines[0].replace(": ", " – ")  # napoleon takes what is before a colon there for a type


def converted(text: str) -> str:
    """Return a docstring as reStructuredText."""
    result: list[str] = []
    prose: list[str] = []

    def flush() -> None:
        if prose:
            result.extend(_escaped("\n".join(prose)).split("\n"))
            prose.clear()

    code_indent = None  # of an indented block of code
    doctest = False
    for line in text.expandtabs().split("\n"):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            doctest = False
        elif code_indent is not None and indent < code_indent:
            code_indent = None
        if line.strip() and code_indent is None and not doctest:
            before = [*result, *prose]
            if line.lstrip().startswith(">>>"):
                doctest = True
            elif _opens_code(before, indent):
                flush()
                result.extend([" " * (indent - 4) + "::", ""])
                code_indent = indent
        if doctest or code_indent is not None:
            flush()
            result.append(line)
        else:
            prose.append(line)
    flush()
    return "\n".join(result)


def _opens_code(before: list[str], indent: int) -> bool:
    """Return whether a line so far to the right, after an empty line, begins a block of code."""
    if indent < 4 or not before or before[-1].strip():
        return False
    last = next((line for line in reversed(before) if line.strip()), "")
    return last.strip() not in SECTIONS and indent >= len(last) - len(last.lstrip()) + 4


def _escaped(text: str) -> str:
    """Return prose with names in backticks as code, and all else as it stands."""
    parts, at = [], 0
    for found in CODE.finditer(text):
        before, role, code, after = found.groups()
        parts.append(MARKUP.sub(_backslash, text[at : found.start()]) + before)
        if role:
            parts.append(f"{role}`{code}`")
        else:
            code = re.sub(r"\s*\n\s*", " ", code)
            space = "\\ " if before else ""
            parts.append(f"{space}``{code}``" + (f"\\ {after}" if after else ""))
        at = found.end()
    return "".join(parts) + MARKUP.sub(_backslash, text[at:])


def _backslash(found: re.Match[str]) -> str:
    return "\\" + found[0]
