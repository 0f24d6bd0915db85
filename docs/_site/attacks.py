"""The attacks in the API reference: a page each, a map that links to them, and what else the package has."""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastadv as fa
from fastadv.attacks.core.card import REGISTRY
from fastadv.text import in_markdown
from fastadv.threat import THREATS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ASKS = {"gradient": "gradients", "score": "scores", "decision": "decisions", "none": "nothing of the model"}
SECTIONS = ("Args", "Returns", "Raises", "Example", "Source")
LOOKS = {"budget": "within a radius", "minimum": "the nearest"}


def write_pages(app: "Sphinx") -> None:
    """Write a page for each attack into a folder that git ignores: the event `builder-inited`."""
    folder = Path(app.srcdir, "api", "attacks")
    folder.mkdir(exist_ok=True)
    pages = {folder / f"{name}.rst": _page(name) for name in REGISTRY}
    for old in set(folder.glob("*.rst")) - pages.keys():
        old.unlink()
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # else Sphinx reads it again
            path.write_text(text, encoding="utf-8")


def _page(name: str) -> str:
    card = REGISTRY[name]
    norms = ", ".join(THREATS[norm].symbol for norm in card.norms)
    facts = (
        f"Asks for {ASKS[card.knowledge]}, looks {LOOKS[card.kind].replace('the', 'for the')}, in {norms}."
    )
    return f"{name}\n{'=' * len(name)}\n\n{facts}\n\n.. autofunction:: fastadv.attacks.{name}\n"


def explain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Write what a docstring leaves to that of `pgd` in its place: the event `autodoc-process-docstring`."""
    if what == "function" and any(line.startswith("    others: as in `pgd`") for line in lines):
        lines[:] = explained("\n".join(lines), inspect.signature(obj).parameters).split("\n")


def explained(text: str, arguments: Iterable[str]) -> str:
    """Return the docstring of an attack with all its arguments, and the sections that it leaves to `pgd`."""
    own, of_pgd = _sections(text), _sections(inspect.getdoc(fa.attacks.pgd) or "")
    known, meanings = _entries(own["Args"]), _entries(of_pgd["Args"])
    every = [known.get(name) or meanings[name] for name in arguments]
    beginning = of_pgd["Example"].partition("    >>> out")[0]
    own["Args"] = "Args:\n" + "".join(every)
    if "Example" in own:
        own["Example"] = beginning + own["Example"].removeprefix("Example:\n")
    own |= {part: own.get(part) or of_pgd[part] for part in ("Returns", "Raises")}
    parts = [own[part] for part in ("", *SECTIONS) if part in own]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _sections(text: str) -> dict[str, str]:
    """Return the sections of a docstring by their names, and what comes before them as ""."""
    first, *rest = re.split(rf"^(?=(?:{'|'.join(SECTIONS)}):$)", text, flags=re.MULTILINE)
    return {"": first, **{part.partition(":")[0]: part for part in rest}}


def _entries(arguments: str) -> dict[str, str]:
    """Return the entries of a section of arguments by name."""
    return dict(re.findall(r"(?ms)^(?=    (\w+): )(.*?)(?=^    \w|\Z)", arguments.rstrip("\n") + "\n"))


def attack_map() -> str:
    """Return the attacks by what they ask of the model and look for, in each norm."""
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, card in sorted(REGISTRY.items()):
        for norm in card.norms:
            found[card.knowledge, card.kind][norm].append(f"{{py:func}}`{name} <fastadv.attacks.{name}>`")
    cells = [["asks for", "looks", *(threat.symbol for threat in THREATS.values())]]
    for asks in ASKS:
        for looks in LOOKS:
            if names := found.get((asks, looks)):
                cells.append([ASKS[asks], LOOKS[looks], *(", ".join(names[norm]) or "-" for norm in THREATS)])
    return in_markdown(cells, names=len(cells[0]))


def others() -> str:
    """Return the descriptions of what `fastadv.attacks` has besides attacks, the registry's own card last."""
    lines = []
    for name in sorted(
        set(fa.attacks.__all__) - {*REGISTRY, "Attack"}, key=lambda name: (name.islower(), name)
    ):
        if not name.isupper():  # the registries: the docstring of the package tells of them
            kind = "class" if inspect.isclass(getattr(fa.attacks, name)) else "function"
            lines.append(f".. auto{kind}:: fastadv.attacks.{name}")
    last = [".. autoclass:: fastadv.attacks.masking.flags.Cost", ".. autoclass:: fastadv.attacks.Attack"]
    return "\n".join(["```{eval-rst}", *lines, *last, "```"])
