"""The attacks in the API reference: a page each, a map that links to them, and what else the package has."""

import inspect
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import fastadv as fa
from fastadv.attacks.core.card import REGISTRY
from fastadv.text import in_markdown
from fastadv.threat import THREATS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ASKS = {"gradient": "gradients", "score": "scores", "decision": "decisions", "none": "nothing of the model"}
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
