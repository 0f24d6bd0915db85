"""Tables for reports, and a page as it was read."""

import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv.attacks import Status
from fastadv.attacks.masking import Indicators
from fastadv.evaluation import Row, Table
from fastadv.evaluation.row import Samples

VOID = {"meta", "link", "img", "br", "wbr"}
CLOSED = {"path", "rect", "circle", "polygon", "polyline"}


class Read(HTMLParser):
    """A page that was read. Its tags are closed in their order; `data` are its scripts by id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: dict[str | None, str] = {}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in CLOSED
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside[-1:] == ["script"]:
            self.data[self.tags[-1][1]["id"]] = data
        elif self.inside[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def elements(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name in names]


def table_of(count: int, shape: tuple[int, ...] = (3, 8, 8), classes: int = 10, **more: Any) -> Table:
    """A table of two attacks: PGD breaks the first of every three samples, FMN the first and the second."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, *shape, generator=generator)
    x_adv = (x + 0.1 * torch.rand(x.shape, generator=generator).sub(0.5)).clamp(0, 1)
    distance = 0.02 + 0.08 * torch.rand(count, generator=generator).double()
    turn, correct, ids = torch.arange(count) % 3, torch.ones(count, dtype=torch.bool), torch.arange(count)
    cost = {"failed": 0, "unmoved": 0, "forwards": 70, "backwards": 30, "seconds": 0.5}
    rows = tuple(
        Row(
            name, correct, broken, torch.where(broken, distance, math.inf), minimum_norm=radius == math.inf,
            threat=fa.Linf(radius), **cost,
        )
        for name, broken, radius in (("pgd", turn < 1, 0.1), ("fmn", turn < 2, math.inf))
    )  # fmt: skip
    by = torch.tensor([0, 1, -1])[turn]
    status = torch.where(by < 0, int(Status.HELD), int(Status.BROKEN))
    every = torch.stack([row.distance for row in rows], 1)
    samples = Samples(
        x, x_adv, ids % classes, ids, by >= 0, status, every.amin(1), by, torch.full_like(by, -1), every
    )
    raised = Indicators({"zero_gradient": 0.5, "square": 0.0}, {"unconstrained": "too few samples"})
    return Table(rows, correct, ~correct, ids, 1.5, **{"samples": samples, "indicators": raised, **more})
