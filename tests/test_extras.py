"""The base needs torch, numpy and safetensors; what needs more says which extra brings it."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastadv import _extras
from tests.test_layers import imported

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastadv"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = {"torch", "numpy", "safetensors"}
OWN = {"fastadv", "typing_extensions"}  # torch requires the latter
PEERS = {"art", "foolbox", "timm", "torchattacks"}  # which nobody but their own adapter needs
# rooms that import an optional package when they are imported themselves, which nothing in the base does
LATE = {
    "cli": {"typer", "rich"}, "ops/triton": {"triton"}, "_torchvision": {"torchvision"},
    "evaluation/figures/picture": {"matplotlib"},
}  # fmt: skip


def packages(nodes: Iterator[ast.AST]) -> set[str]:
    """The top packages that import statements and calls of `import_module` name, without Python's own."""
    return {name.partition(".")[0] for name in imported(nodes)} - sys.stdlib_module_names


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a file is imported: not bodies of functions, nor what is there for types alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    if not isinstance(node, ast.FunctionDef | ast.Lambda):
        for inner in ast.iter_child_nodes(node):
            yield from run_at_import(inner)


def requirements(extra: str) -> set[str]:
    """The packages that an extra names itself."""
    return {re.split(r"[^\w-]", text)[0] for text in PROJECT["optional-dependencies"][extra]}


@pytest.mark.slow
def test_the_base_imports_no_extra():
    known = BASE | OWN | {*_extras.EXTRAS, *PEERS, "triton", "robustbench", "autoattack", "tqdm", "pandas"}
    for path in PACKAGE.rglob("*.py"):
        place, tree = path.relative_to(PACKAGE).with_suffix("").as_posix(), ast.parse(path.read_text())
        late = {package for room, brought in LATE.items() if place.startswith(room) for package in brought}
        assert packages(run_at_import(tree)) <= BASE | OWN | late, place
        assert packages(ast.walk(tree)) <= known, place


def test_the_extras_bring_what_the_calls_ask_for():
    assert {re.split(r"\W", text)[0] for text in PROJECT["dependencies"]} == BASE
    for extra in ("cli", "plot", "data", "report"):
        asked = {_extras.PIP.get(name, name) for name, (by, _) in _extras.EXTRAS.items() if by == extra}
        assert requirements(extra) == asked
    assert {extra for extra, _ in _extras.EXTRAS.values()} == {"cli", "plot", "data", "report"}
    assert PROJECT["optional-dependencies"]["all"] == ["fastadv[cli,plot,data,report]"]


@pytest.mark.slow
def test_the_base_works_alone_and_optional_calls_say_what_they_need(tmp_path):
    blocked = [*_extras.EXTRAS, "triton", "sklearn", "scipy"]
    command = [sys.executable, str(ROOT / "tests" / "without_extras.py"), *blocked]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
