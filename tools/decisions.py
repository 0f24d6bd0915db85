"""Count decisions in 100 lines of code: `python tools/decisions.py PATHS`, folders or files.

A decision is an `if` or `elif`, a conditional expression, each operand of `and` and `or` beyond the first, a
filter of a comprehension, an `except` and a `case`. Code is what is neither blank, comment nor docstring.
"""

import ast
import sys
from pathlib import Path


def decisions(tree: ast.AST) -> int:
    nodes = list(ast.walk(tree))
    operands = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    filters = sum(len(node.ifs) for node in nodes if isinstance(node, ast.comprehension))
    branches = ast.If | ast.IfExp | ast.ExceptHandler | ast.match_case
    return operands + filters + sum(isinstance(node, branches) for node in nodes)


def lines_of_code(text: str, tree: ast.AST) -> int:
    code = {n for n, line in enumerate(text.splitlines(), 1) if line.strip() and line.strip()[0] != "#"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            code.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code)


def per_hundred(room: Path) -> float:
    """Return the decisions in 100 lines of code of a file, or of all files below a folder."""
    texts = [path.read_text(encoding="utf-8") for path in ([room] if room.is_file() else room.rglob("*.py"))]
    trees = [ast.parse(text) for text in texts]
    return 100 * sum(map(decisions, trees)) / max(sum(map(lines_of_code, texts, trees)), 1)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {per_hundred(Path(name)):.1f} decisions in 100 lines of code")
