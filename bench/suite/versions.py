"""What the versions of AutoAttack cost on the five nets of the parity table: what is left, and passes.

    python -m bench.suite.versions [--net linf l2] [--version quick] [--images 50] [--out FILE]

Rows go to bench/results/versions.jsonl, and the table of bench/results/autoattack.md is printed. What is
stored already is left alone: delete its rows to measure it anew. Passes, forward and backward, do not depend
on the load of the machine.
"""

import json
import warnings
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from bench import records
from bench.suite.wall import SYMBOLS
from fastadv.runs.card import machine
from fastadv.text import in_markdown
from tests.parity.models import WALL, add_places, problem

VERSIONS = ("quick", "standard", "strong")
NORMS = ("linf", "l2")


def measured(net: str, norm: str, version: str, given: tuple[Any, ...]) -> records.Row:
    """One version on one net, at the radius of the parity table."""
    model, x, y = given
    threat = fa.threat.THREATS[norm](WALL[net].radii[norm])
    out = fa.attacks.autoattack(model, x, y, threat, version=version)
    about = {name: machine()[name] for name in ("torch", "commit", "cpu")}
    return {
        "net": net, "norm": norm, "version": version, "images": len(x), "radius": threat.radius,
        "robust": int((~out.success).sum()), "passes": int(out.forwards + out.backwards),
        "seed": 0, "notes": list(out.notes),
        "costs": {name: [cost.samples, cost.broken] for name, cost in out.costs.items()},
        "date": datetime.now(UTC).date().isoformat(), **about,
    }  # fmt: skip


def lines(rows: Iterable[records.Row]) -> Iterator[list[str]]:
    """A line for each net and norm, the passes of each version over those of standard."""
    yield ["net, threat, images", *(f"{name}: robust, passes" for name in VERSIONS)]
    found: dict[tuple[Any, ...], dict[str, records.Row]] = {}
    for row in rows:
        found.setdefault((row["net"], row["norm"], row["images"]), {})[row["version"]] = row
    for (net, norm, images), by_version in found.items():
        base, cells = (
            by_version.get("standard"),
            [f"{net}, {SYMBOLS[norm]} {WALL[net].radii[norm]:g}, {images}"],
        )
        for row in map(by_version.get, VERSIONS):
            share = f" = {row['passes'] / base['passes']:.2f}×" if base and row and row is not base else ""
            cells.append(f"{row['robust']}, {row['passes']:,}{share}" if row else "")
        yield cells


def main() -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--net", nargs="+", choices=WALL, default=list(WALL))
    parser.add_argument("--norm", nargs="+", choices=NORMS, default=list(NORMS))
    parser.add_argument("--version", nargs="+", choices=VERSIONS, default=list(VERSIONS))
    parser.add_argument("--images", type=int, default=50, help="the first of the MNIST test set")
    parser.add_argument("--out", type=Path, default=records.RESULTS / "versions.jsonl")
    add_places(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for version, net, norm in product(options.version, options.net, options.norm):
        wanted = {"net": net, "norm": norm, "version": version, "images": options.images}
        if not any(wanted.items() <= row.items() for row in records.recorded(options.out)):
            given = problem(net, options.images, options.data_dir, options.weights)
            row = measured(net, norm, version, given)
            with options.out.open("a") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            print(*wanted.values(), row["robust"], row["passes"], flush=True)
    print(in_markdown([*lines(records.recorded(options.out))], names=4))


if __name__ == "__main__":
    main()
