"""The source of functions, which tells them apart in every process and every version of Python."""

import ast
import inspect
import sys
import textwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

# code of these packages is known by its name, all other code by its source
_LIBRARIES = {"builtins", "fastadv", "numpy", "torch", "torchvision"} | sys.stdlib_module_names


def of_library(value: Any) -> bool:
    """Return whether a function, class or module belongs to a library, whose code is known by its name."""
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return str(home).partition(".")[0] in _LIBRARIES


def text_of(function: FunctionType) -> str | None:
    """Return the source of a function; None where it cannot be read."""
    # of its code, because `inspect` would go through a decorated function to the one inside
    code = function.__code__
    try:
        if code.co_name == "<lambda>":
            return _text_of_lambda(code, "".join(inspect.findsource(code)[0]))
        return textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError, SyntaxError):
        return None


def _text_of_lambda(code: CodeType, text: str) -> str | None:
    """Return the part of the file `text` that is this lambda: the one in its line that holds its end."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Lambda)]
    found = {
        (node.body.lineno, node.body.col_offset): ast.get_source_segment(text, node)
        for node in nodes
        if node.lineno == code.co_firstlineno
    }
    *_, end = (0, 0), *((line, column) for line, _, column, _ in code.co_positions() if line and column)
    begun = [start for start in found if start <= end]
    # a constant has no position in Python 3.12: then all of the line
    return found[max(begun)] if begun else "\n".join(map(str, found.values())) or None


def names_in(code: CodeType) -> set[str]:
    """Return the names of globals and attributes in a function and in those inside it."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*map(names_in, inner))


def assigned_in(function: FunctionType) -> set[str]:
    """Return the names of the attributes that a function assigns."""
    try:
        nodes = ast.walk(ast.parse(text_of(function) or ""))
    except SyntaxError:  # a lambda out of its line
        return set()
    return {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def globals_of(function: FunctionType) -> dict[str, Any]:
    """Return the globals that a function reads; parts of the caller's own modules by dotted names."""
    names = names_in(function.__code__)
    try:
        nodes = ast.walk(ast.parse(text_of(function) or "?"))
        read = {node.id for node in nodes if isinstance(node, ast.Name)}.difference(
            function.__code__.co_varnames
        )
    except SyntaxError:  # of a method with text that is not indented
        read = names
    found = {name: function.__globals__[name] for name in sorted(names & read & function.__globals__.keys())}
    for name, value in list(found.items()):
        if isinstance(value, ModuleType) and not of_library(value):
            found |= {f"{name}.{part}": vars(value)[part] for part in sorted(names & vars(value).keys())}
    return found
