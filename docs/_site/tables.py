"""Tables of what the library has, made from its registries at each build."""

import inspect
from collections.abc import Callable
from typing import Any

import fastadv as fa
import fastadv.threat
from _site.attacks import attack_map, others
from _site.commands import commands
from _site.costs import cost
from bench.page import table as speed_table
from bench.page.table import Rows
from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.masking.flags import SIGNS
from fastadv.models.registry import factory
from fastadv.text import in_markdown
from fastadv.train.presets import PRESETS
from fastadv.train.recipes import RECIPES

KINDS = {"budget": "budget", "minimum": "minimum norm"}


def attacks() -> str:
    """Return the attacks by what they ask of the model, with what a step costs."""
    cells = [["attack", "asks for", "looks for", "norms", "cost of a sample", "the paper"]]
    order = ("gradient", "score", "decision", "none")
    for name, card in sorted(REGISTRY.items(), key=lambda item: (order.index(item[1].knowledge), item[0])):
        norms = ", ".join(fastadv.threat.THREATS[norm].symbol for norm in card.norms)
        cells.append([f"{{py:func}}`~fastadv.attacks.{name}`", card.knowledge, KINDS[card.kind], norms,
                      cost(card), card.paper])  # fmt: skip
    return in_markdown(cells, names=len(cells[0]))


def recipes() -> str:
    """Return the recipes that commands can name."""
    cells = [["`--recipe`", "class", "what it does", "arguments beside the threat"]]
    for name, kind in RECIPES.items():
        arguments = [key for key in inspect.signature(kind).parameters if key != "threat"]
        does = _first_line(kind) + " (moves the weights itself)" * callable(getattr(kind, "step", None))
        cells.append([f"`{name}`", f"{{py:class}}`~fastadv.train.{kind.__name__}`", does, _names(arguments)])
    return in_markdown(cells, names=4)


def presets() -> str:
    """Return the settings of papers."""
    cells = [["name", "paper", "data", "model", "epochs", "clean", "robust", "judged by"]]
    for name, preset in PRESETS.items():
        cells.append([f"`{name}`", preset.paper, preset.data, preset.model or "yours", f"{preset.epochs}",
                      f"{preset.clean}%", f"{preset.robust}%", preset.judge])  # fmt: skip
    return in_markdown(cells, names=4)


def models() -> str:
    """Return the built-in models."""
    cells = [["name", "what it is", "arguments beside `shape`, `classes`, `seed`"]]
    for name in fa.models.names():
        made = factory(name)
        known = getattr(made, "func", made)
        arguments = [key for key in inspect.signature(made).parameters if key not in SHARED]
        cells.append([f"`{name}`", _first_line(known), _names(arguments)])
    return in_markdown(cells, names=3)


def names() -> str:
    """Return what `fastadv` itself exports, with links to where it is described."""
    cells = [["name", "what it is"]]
    for name in fa.__all__:
        value = getattr(fa, name)
        if inspect.ismodule(value):
            cells.append([f"{{py:mod}}`fastadv.{name} <{value.__name__}>`", _first_line(value)])
            continue
        room = next((room for room in HOMES if getattr(room, name, None) is value), fa)
        cells.append([f"{{py:obj}}`fastadv.{name} <{room.__name__}.{name}>`", _first_line(value)])
    return in_markdown(cells, names=2)


HOMES = (fa.engine, fastadv.threat, fa.errors, fa.evaluation)
SHARED = ("shape", "classes", "seed")


def signs() -> str:
    """Return the signs of masked gradients, with who described each."""
    cells = [["indicator", "what is flagged", "above", "next", "source"]]
    sources = {name: paper for paper, known in DESCRIBED.items() for name in known}
    for name, sign in SIGNS.items():
        source = sources.get(name, "Pintor et al. 2022")
        cells.append([f"`{name}`", sign.words, f"{sign.limit:g}", sign.advice, source])
    return in_markdown(cells, names=5)


DESCRIBED = {
    "Croce & Hein 2020": ("randomized", "square"),
    "Athalye et al. 2018": ("incorrect_gradient",),
    "reports of users": ("bounded_outputs", "clamped_input", "mixed_rows"),
}


def speed() -> str:
    """Return the newest rows of the benchmark."""
    return speed_table.section(Rows.stored())


def numbers() -> str:
    """Return how much there is, and where."""
    told = [
        f"[**{len(REGISTRY)}** attacks](api/attacks.md)",
        f"[**{len(RECIPES)}** training recipes](reference/recipes.md)",
        f"[**{len(fa.models.robustbench_entries())}** RobustBench networks](robustbench.md)",
    ]
    return "\n\n".join([":::{container} numbers", *told, ":::"])


TABLES: dict[str, Callable[[], str]] = {
    "names": names,
    "attacks": attacks,
    "attack_map": attack_map,
    "numbers": numbers,
    "others": others,
    "recipes": recipes,
    "presets": presets,
    "models": models,
    "commands": commands,
    "signs": signs,
    "speed": speed,
}


def _first_line(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")


def _names(arguments: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in arguments)
