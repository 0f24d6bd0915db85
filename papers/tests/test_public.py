"""Papers use the library as its users do: by the calls that its pages show."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = (
    "fastadv", "fastadv.attacks", "fastadv.certify", "fastadv.data", "fastadv.data.construct",
    "fastadv.errors", "fastadv.evaluation", "fastadv.evaluation.figures", "fastadv.losses", "fastadv.models",
    "fastadv.rng", "fastadv.threat", "fastadv.train",
)  # fmt: skip
ROOMS = ("fastadv.adapters", "fastadv.engine", "fastadv.ops", "fastadv.attacks.core")  # for other users
# the exceptions: folders that resume, with cards as the library's own, which no public call makes
EXCEPTIONS = ("fastadv.runs.", "fastadv.card.", "fastadv.files.", "fastadv.hashes.")
FILES = [path for path in (ROOT / "papers").rglob("*.py") if "tests" not in path.parts]


def used(tree: ast.AST) -> Iterator[str]:
    """What is imported of the library, and what is asked of it as `fa.attacks.pgd`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fastadv"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("fastadv"))
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"fa(\.\w+)+", text := ast.unparse(node)):
            yield text.replace("fa.", "fastadv.", 1)


def is_public(name: str) -> bool:
    """Whether a public module shows it, as `fastadv.attacks.pgd` or the start of a longer name."""
    if name.startswith(ROOMS):
        return False
    if name in PUBLIC or name.startswith(EXCEPTIONS):
        return not any(part.startswith("_") for part in name.split("."))
    module, _, last = name.rpartition(".")
    if module not in PUBLIC:
        return is_public(module) and not last.startswith("_")
    home = importlib.import_module(module)
    network = module == "fastadv.models" and isinstance(getattr(home, last, None), type)  # behind `create`
    return network or (last in getattr(home, "__all__", [last]) and not last.startswith("_"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_paper_uses_public_calls_alone(path):
    assert [name for name in used(ast.parse(path.read_text())) if not is_public(name)] == []


def test_inner_names_are_told():
    inner = "_checks.check_flag engine.prepare ops.nearest_prototype attacks.core.run data._load text.percent"
    assert [name for name in inner.split() if is_public(f"fastadv.{name}")] == []
