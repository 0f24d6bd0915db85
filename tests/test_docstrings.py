"""Docstrings of public names: one style, every argument described, and examples that run."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache

import pytest

import fastadv as fa
from test_repository import public_objects

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example", "Source")  # in this order
HEADING = re.compile(r"^([A-Z]\w+):$", re.MULTILINE)
# documented, and not among the packages of `public_objects`
OTHERS = (
    "adapters.art adapters.foolbox adapters.torchattacks attacks.rules errors evaluation.figures losses rng"
)
MODULES = [f"fastadv.{name}" for name in OTHERS.split()]
# a text that stands once, for several names
ELSEWHERE = re.compile(r"^others: as in `(\w+)`(?:, and so (?:is|are) (.*))?\.", re.MULTILINE)


def documented() -> Iterator[tuple[str, object]]:
    """Every public function, class and method, with its name; what two names name comes twice."""
    yield from public_objects()
    for name in MODULES:
        for part, value in vars(importlib.import_module(name)).items():
            home = str(getattr(value, "__module__", ""))
            if not part.startswith("_") and home.startswith(name) and callable(value):
                yield f"{name}.{part}", value


def sections(text: str) -> dict[str, str]:
    """The parts of a docstring by their heading, in order; what comes before the first is under ""."""
    first, *rest = HEADING.split(text)
    return {"": first, **dict(zip(rest[::2], map(textwrap.dedent, rest[1::2]), strict=True))}


@cache
def by_last_name() -> dict[str, object]:
    return {name.rpartition(".")[2]: value for name, value in documented()}


def text_of(value: object) -> str:
    return inspect.getdoc(value) or ""


def described(text: str) -> set[str]:
    """The arguments that a docstring describes, or leaves to that of another name."""
    parts = sections(text)
    args = parts.get("Args", "") + parts.get("Attributes", "")
    names = set(re.findall(r"^(\w+): ", args, re.MULTILINE))
    others = [text_of(by_last_name()[name]) for name, _ in ELSEWHERE.findall(args)]
    return names.union(*map(described, others))


def with_sections_elsewhere(text: str) -> dict[str, str]:
    """The sections of a docstring, with those that it leaves to the text of another name."""
    parts = sections(text)
    for name, headings in ELSEWHERE.findall(parts.get("Args", "")):
        other = sections(text_of(by_last_name()[name]))
        parts = {heading: other[heading] for heading in headings.split(" and ") if heading} | parts
    return parts


def arguments(value: object) -> set[str]:
    """The arguments of a function, of a class that has its own, or the fields that it names."""
    if not inspect.isclass(value):
        return {name for name in inspect.signature(value).parameters if name not in ("self", "cls")}  # type: ignore[arg-type]
    if dataclasses.is_dataclass(value):
        return {field.name for field in dataclasses.fields(value) if not field.name.startswith("_")}
    if issubclass(value, dict | tuple):  # a TypedDict or a NamedTuple
        return set(inspect.get_annotations(value))
    init = vars(value).get("__init__")
    return arguments(init) if getattr(init, "__module__", None) == value.__module__ else set()


def raises(value: object) -> bool:
    """Whether the function has a `raise` of its own."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value))))  # type: ignore[arg-type]
    raised = [ast.unparse(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    return any(error != "NotImplementedError" for error in raised)


def is_method(value: object) -> bool:
    return "." in getattr(value, "__qualname__", "").rpartition("<locals>.")[2]


def missing_sections(value: object, text: str) -> Iterator[str]:
    """What a function or class leaves out. A method says it in a line or two, where name and types do not."""
    parts = with_sections_elsewhere(text)
    if missing := arguments(value) - described(text):
        yield f"no text for {sorted(missing)}"
    if not inspect.isclass(value):
        returned = inspect.signature(value).return_annotation  # type: ignore[arg-type]
        if returned not in (None, "None", inspect.Signature.empty) and "Returns" not in parts:
            yield "no Returns"
        if raises(value) and "Raises" not in parts:
            yield "no Raises"


def faults(value: object) -> Iterator[str]:
    """What is wrong with the docstring of a function, class or method."""
    text = text_of(value)
    first, parts = text.partition("\n")[0], sections(text)
    if not first[:1].isupper() or not first.endswith("."):
        yield f"first line {first!r}: expected a capital first and a period last"
    headings = [heading for heading in parts if heading]
    if headings != [heading for heading in SECTIONS if heading in parts]:
        yield f"sections {headings}"
    if not is_method(value):
        yield from missing_sections(value, text)


def has_its_own(name: str, value: object) -> bool:
    """Whether a text is wanted: a default has none, and that of a model's forward is in the class."""
    of_model = name.endswith((".forward", ".log_confidence"))
    return not of_model and not getattr(value, "__name__", "").startswith("_")


@pytest.mark.slow
def test_docstrings_have_one_style() -> None:
    known = {name: value for name, value in documented() if has_its_own(name, value)}
    wrong = {name: says for name, value in known.items() if (says := [*faults(value)])}
    assert not wrong, "\n".join(f"{name}: {'; '.join(says)}" for name, says in wrong.items())


@pytest.mark.slow
@pytest.mark.docs
def test_examples_run() -> None:
    # by their text: several names may share one
    shown = {text: name for name, value in documented() if ">>> " in (text := text_of(value))}
    assert len(shown) >= 64, "an example is gone"
    said: list[str] = []
    # attacks that leave their arguments to `pgd` are called with the x, y and model of its example
    beginning = doctest.DocTestParser().get_doctest(text_of(fa.attacks.pgd), {}, "pgd", None, None)
    doctest.DocTestRunner().run(beginning, out=said.append, clear_globs=False)
    for text, name in shown.items():
        known = dict(beginning.globs) if "\n    others: as in `pgd`" in text else {}
        example = doctest.DocTestParser().get_doctest(text, known, name, None, None)
        assert len(example.examples) > 1, name
        doctest.DocTestRunner().run(example, out=said.append)
    assert not said, "".join(said)
