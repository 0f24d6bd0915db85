"""Write docs/ops.md from the cards of the ops.

python -m tests.ops.page
"""

from collections.abc import Iterable
from pathlib import Path

import fastadv.ops
from fastadv.ops.registration.library import CARDS, OpCard
from fastadv.text import in_markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ops.md"
TITLE = """# Ops

This page is written by `python -m tests.ops.page` from the cards of the ops.

Each op is a function on tensors with a reference in eager PyTorch, a C++ kernel for CPUs and a Triton kernel
for NVIDIA GPUs. {bare} have no Triton kernel: their reference runs there.
Only {differentiable} have a gradient. `fastadv.backends()` tells what serves each device here.
Every op is registered as `torch.ops.fastadv.NAME`, so that `torch.compile` knows it. An op in place writes
its first argument and ends in an underscore.
"""
PUBLIC = "Functions of `fastadv.ops`, which check their arguments:"
INTERNAL = (
    "Engine, attacks and ABS also use {names}: modules under `fastadv/ops/`, which say what they compute."
)


def line(card: OpCard) -> list[str]:
    name = f"`{card.name}`, `{card.name}_`" if card.in_place else f"`{card.name}`"
    return [name, card.summary]


def listed(cards: Iterable[OpCard]) -> str:
    *first, last = [f"`{card.name}`" for card in cards]
    return f"{', '.join(first)} and {last}"


def table(cards: list[OpCard]) -> str:
    cells = [["op", "computes"], *map(line, cards)]
    return in_markdown(cells, names=len(cells[0]))


def text() -> str:
    cards = [CARDS[name] for name in sorted(CARDS)]
    public = [card for card in cards if card.name in fastadv.ops.__all__]
    internal = [card for card in cards if card not in public]
    title = TITLE.format(
        bare=listed(card for card in cards if not card.triton),
        differentiable=listed(
            card for card in cards if not card.signature.written and card.gradient is not None
        ),
    )
    return "\n".join((title, PUBLIC, "", table(public), "", INTERNAL.format(names=listed(internal)), ""))


if __name__ == "__main__":
    PAGE.write_text(text())
