"""Rules of the house that a machine can check."""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastadv"
FOLDERS = ("fastadv", "csrc", "tests", "bench", "examples", "tools")
ROOMS = [folder for name in FOLDERS if (folder := ROOT / name).is_dir()]
SOURCES = sorted(
    path for room in ROOMS for path in room.rglob("*") if path.suffix in {".py", ".cpp", ".h", ".inl"}
)
MODULES = sorted(PACKAGE.rglob("*.py"))
BANNED = {"eps", "epsilon", "n_iter", "alpha", "max_iter", "num_steps", "num_iter", "nb_iter", "iterations"}
BANNED |= {"slope", "slopes", "centre", "reach"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its name: `name` of a plain call, `.name` of a method call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, node
            elif isinstance(node.func, ast.Attribute):
                yield "." + node.func.attr, node


def public_objects() -> Iterator[tuple[str, object]]:
    """What `__all__` of fastadv and its packages names: functions, classes, and their public methods."""
    packages = [
        "fastadv",
        *(f"fastadv.{path.parent.name}" for path in sorted(PACKAGE.glob("*/__init__.py"))),
        "fastadv.attacks.core",
        "fastadv.data.construct",
        "fastadv.models.abs",
        "fastadv.train.augment",
    ]
    for name in packages:
        package = importlib.import_module(name)
        for public in getattr(package, "__all__", ()):
            value = getattr(package, public)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{name}.{public}", value
            if inspect.isclass(value) and value.__module__.startswith("fastadv"):
                yield from (
                    (f"{name}.{public}.{part}", getattr(value, part))
                    for part, value_of in vars(value).items()
                    if _is_method(part, value_of)
                )


def _is_method(name: str, value: object) -> bool:
    return not name.startswith("_") and (
        inspect.isfunction(value) or isinstance(value, classmethod | staticmethod)
    )


def test_no_file_is_longer_than_500_lines():
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert not {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > 500}


def never_prints_or_evaluates(path: Path, tree: ast.Module) -> None:
    named = {name for name, _ in calls(tree)}
    if path.stem != "cli" and "cli" not in path.parts:
        assert "print" not in named
    assert not named & {"eval", "exec"}


def does_not_move_or_wait_in_kernels_and_attacks(path: Path, tree: ast.Module) -> None:
    if path.relative_to(PACKAGE).parts[0] in ("ops", "attacks"):
        banned = {name for name, _ in calls(tree)} & {".cuda", ".item"}
        assert not banned, f"{path.relative_to(ROOT)}: {banned}"


def never_touches_global_seeds(path: Path, tree: ast.Module) -> None:
    for name, call in calls(tree):
        if name.removeprefix(".") in ("manual_seed", "manual_seed_all", "seed"):
            # a private generator may be seeded, torch.default_generator in a child process, and those of the
            # process in `rng.py`, where `generators_kept` restores them
            private = "generator" in ast.unparse(call.func).lower() or path.name == "rng.py"
            assert private, f"{path.name}:{call.lineno}"


def unpickles_nothing(path: Path, tree: ast.Module) -> None:
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for name, call in calls(tree):
        if name == ".load" and ast.unparse(call.func) == "torch.load":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert options.get("weights_only") == "True", f"{path.name}:{call.lineno}"


def has_one_word_for_one_thing(path: Path, tree: ast.Module) -> None:
    if path == PACKAGE / "adapters" / "meaning.py":  # the arguments of another package
        return
    for node in ast.walk(tree):
        if isinstance(node, Function):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            # the probability of an error is called alpha in all of statistics
            banned = BANNED - {"alpha"} if path.parent.name == "certify" else BANNED
            assert not banned & {argument.arg for argument in arguments}, (
                f"{path.name}:{node.lineno} {node.name}"
            )


def reads_and_writes_utf8(path: Path, tree: ast.Module) -> None:
    """Whatever the locale: a page with an "∞" is otherwise an error under LC_ALL=C."""
    for name, call in calls(tree):
        if name in (".read_text", ".write_text"):
            assert "encoding" in {keyword.arg for keyword in call.keywords}, f"{path.name}:{call.lineno}"


def says_what_it_holds(path: Path, tree: ast.Module) -> None:
    assert ast.get_docstring(tree) or not path.read_text().strip()


def pages_exist(path: Path, tree: ast.Module) -> None:
    named = [name for name in paths(path.read_text()) if name.startswith(("docs/", "examples/", "tests/"))]
    assert [name for name in named if not (ROOT / name).exists()] == [], path


RULES = (
    never_prints_or_evaluates,
    does_not_move_or_wait_in_kernels_and_attacks,
    never_touches_global_seeds,
    unpickles_nothing,
    has_one_word_for_one_thing,
    reads_and_writes_utf8,
    says_what_it_holds,
    pages_exist,
)


@pytest.mark.slow
def test_modules_keep_the_rules():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for rule in RULES:
            rule(path, tree)


def test_tests_of_the_product_do_without_the_benchmark():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.parent.name != "bench":
            imported = re.findall(r"^ *(?:from|import) (bench\b[\w.]*)", path.read_text(), re.MULTILINE)
            assert not imported, f"{path.relative_to(ROOT)} imports {imported}"


@pytest.mark.slow
def test_environment_variables_are_documented():
    quoted = re.compile(r"""["'](FASTADV_[A-Z_]+)["']""")
    files = [*SOURCES, ROOT / "setup.py", ROOT / "Makefile"]
    used = {name for path in files for name in quoted.findall(path.read_text())}
    documented = set(re.findall(r"`(FASTADV_[A-Z_]+)`", (ROOT / "docs" / "env.md").read_text()))
    assert used == documented


PATH = re.compile(r"`([\w.][\w./-]*)`|\]\((?!http)([\w.][\w./-]*)\)")
ENDINGS = (".py", ".md", ".toml", ".txt", ".jsonl", ".inl", ".h", ".cpp", "/")
PAGES = ("AGENTS.md", "CONTRIBUTING.md", "README.md", "docs/own_attack.md", "llms.txt")


def paths(text: str) -> list[str]:
    """The paths in backticks and links; of `fastadv/ops/NAME.py`, where NAME is any name, the folder."""
    texts = ("".join(groups) for groups in PATH.findall(text))
    named = [name for name in texts if "/" in name or name.endswith(ENDINGS)]
    return [name if "NAME" not in name else str(Path(name).parent) for name in named]


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_pages_exist(page):
    named = paths((ROOT / page).read_text())
    assert named
    folders = ROOT, (ROOT / page).parent  # paths in backticks, and links
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []


@pytest.mark.slow
def test_names_in_contributing_exist():
    """Each word in backticks is one of the sources; a star stands for the rest of a name."""
    known = set(re.findall(r"\w+", "\n".join(file.read_text() for file in (*SOURCES, ROOT / "Makefile"))))
    named = re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", (ROOT / "CONTRIBUTING.md").read_text())
    assert named
    named = [name for name in named if name not in paths(f"`{name}`") and not (ROOT / name).exists()]
    assert [name for name in named if not {*name.split(".")} - {""} <= known] == []


def test_bench_rows_say_where_they_come_from():
    for path in sorted((ROOT / "bench" / "results").glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            row = json.loads(line)
            flat = {**row, **row.get("machine", {})}
            missing = {"commit", "torch", "date"} - flat.keys()
            assert not missing, f"{path.name}:{number} lacks {missing}"
            assert {"device", "cpu", "gpu"} & flat.keys(), f"{path.name}:{number} names no device"
