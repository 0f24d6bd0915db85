"""Imports inside fastadv point down only."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastadv

PACKAGE = Path(fastadv.__file__).parent

# Layers from the bottom up. The rooms of one layer do not import each other.
LAYERS = [
    {"errors", "_C", "_torch", "_version", "_waiting", "hashes"},
    {"_extras", "card", "files"},
    {"_checks", "_torchvision"},
    {"ops"},
    {"losses", "rng"},
    {"threat"},
    {"runs"},
    {"arguments", "intervals", "text", "progress"},
    {"labels", "outputs"},
    {"engine"},
    {"last_iterate"},
    {"answers", "attacks", "models"},
    {"data"},
    {"measure"},
    {"certify", "evaluation", "train"},
    {"adapters"},
    {"fastadv"},  # the public names: commands and the demo use the library as its users do
    {"demo"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


# Rooms within a room, from the bottom up; the files beside them stand above.
INNER = {"attacks": ["core", "criteria", "masking", "methods"]}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str | Iterable[ast.AST], folder: Sequence[str] = ()) -> Iterator[str]:
    """What a source imports, names with their module, by a statement or `import_module` with a literal."""
    for node in ast.walk(ast.parse(source)) if isinstance(source, str) else source:
        match node:
            case ast.ImportFrom(level=level, module=module, names=names) if level:
                assert folder, "relative import"
                package = [*folder[: len(folder) + 1 - level], *filter(None, [module])]
                yield from (".".join([*package, alias.name]) for alias in names)
            case ast.ImportFrom(module=str(name), names=names):
                yield from (f"{name}.{alias.name}" for alias in names)
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


@cache
def imported_by(path: Path) -> tuple[str, ...]:
    return tuple(imported(path.read_text()))


def imported_rooms(path: Path) -> set[str]:
    """The rooms of fastadv that a file imports; fastadv itself is one."""
    parts = (name.split(".") for name in imported_by(path))
    return {(part[1:2] or part)[0] for part in parts if part[0] == "fastadv"}


@pytest.mark.slow
def test_imports_point_down():
    for path in FILES:
        room = room_of(path)
        assert room in LEVEL, f"{room} has no layer: add it to LAYERS in {Path(__file__).name}"
        for other in imported_rooms(path):
            assert other == room or LEVEL.get(other, len(LAYERS)) < LEVEL[room], (
                f"{path}: {room} imports {other}, which is not below it"
            )


# Beyond that order: rooms that must not know others below them
NEVER = [
    ("data", "attacks"),
    ("engine", "runs"),
    ("engine", "threat"),
    ("evaluation", "certify"),
    ("models", "runs"),
    ("threat", "runs"),
    ("train", "evaluation"),
]


@pytest.mark.parametrize(("room", "other"), NEVER)
def test_a_room_does_not_know_another(room, other):
    files = (path for path in FILES if room_of(path) == room)
    assert [path for path in files if other in imported_rooms(path)] == []


@pytest.mark.slow
@pytest.mark.parametrize("room", INNER)
def test_inner_rooms_import_down(room):
    """`core` knows nothing of a room beside it, `masking` nothing of `methods`, and none knows an attack."""
    inner = INNER[room]
    for level, name in enumerate(inner):
        for path in (PACKAGE / room / name).rglob("*.py"):
            for module in imported_by(path):
                if module.startswith(f"fastadv.{room}"):
                    lower = tuple(f"fastadv.{room}.{below}" for below in inner[: level + 1])
                    assert module.startswith(lower), f"{path} imports {module}"


@pytest.mark.slow
def test_files_do_not_import_in_a_circle():
    """Nor for their types alone: of two files, one can be read without the other."""
    dotted = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES}
    names = {path: name.removesuffix(".__init__") for path, name in dotted.items()}
    files = {*names.values()}
    imports = {
        name: {module if module in files else module.rpartition(".")[0] for module in imported_by(path)}
        for path, name in names.items()
    }
    assert imports["fastadv.attacks.core.run"] >= {"fastadv.attacks.core.search", "fastadv.threat"}
    TopologicalSorter(imports).prepare()  # CycleError names the circle


def test_the_public_page_computes_nothing():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr, ast.FunctionDef, ast.If, ast.Try)
    assert all(isinstance(node, allowed) for node in tree.body)


@pytest.mark.slow
def test_torchvision_is_imported_in_one_place():
    importing = [
        path for path in FILES if "torchvision" in {name.split(".")[0] for name in imported_by(path)}
    ]
    assert {room_of(path) for path in importing} == {"_torchvision"}


ADDED = """
import sys, torch
before = {*sys.modules}
import fastadv
print(*sys.modules.keys() - before)
files = [module.__file__ for name, module in sys.modules.items() if name.startswith("fastadv")]
assert len({*files}) == len(files), "imported twice"
"""


@pytest.mark.slow
def test_the_import_is_light(tmp_path):
    """What takes long to import, and is not always needed, waits until it is; no file is written."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", ADDED],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    # torch.distributed.nn takes 9 ms; `fastadv/runs/processes.py` says why it is imported
    light = ("fastadv", "numpy.", "torch.distributed.nn", "_remote_module_non_scriptable")
    added = [name for name in done.stdout.split() if name.split(".")[0] not in sys.stdlib_module_names]
    assert "fastadv.attacks" in added
    assert [name for name in added if not name.startswith(light)] == []
    assert list(tmp_path.iterdir()) == []
