"""What the versions of AutoAttack cost on the five nets of the parity table: what is left, and passes.

    python -m bench.suite.versions [--net linf l2] [--version quick] [--images 50] [--again] [--out FILE]

Rows go to bench/results/versions.jsonl, and the table of bench/results/autoattack.md is printed. What is
stored already is left alone unless --again is given. Passes, forward and backward, do not depend on the
load of the machine.
"""

import json
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from bench import records
from bench.suite.wall import SYMBOLS
from fastadv.runs.card import machine
from tests.parity.models import WALL, add_places, problem

STORE = records.RESULTS / "versions.jsonl"
VERSIONS = ("quick", "standard", "strong")
NORMS = ("linf", "l2")
KEY = ("net", "norm", "version", "images")


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


def table(rows: Sequence[records.Row]) -> str:
    """The rows as Markdown, each version over standard in brackets."""
    head = ["net, threat, images", *(f"{name}: robust, passes" for name in VERSIONS)]
    lines = [head, ["---"] * len(head)]
    places = dict.fromkeys((row["net"], row["norm"], row["images"]) for row in rows)
    for net, norm, images in places:
        found = {
            row["version"]: row
            for row in rows
            if (row["net"], row["norm"], row["images"]) == (net, norm, images)
        }
        cells = [f"{net}, {SYMBOLS[norm]} {WALL[net].radii[norm]:g}, {images}"]
        for version in VERSIONS:
            row, base = found.get(version), found.get("standard")
            if row is None:
                cells.append("")
                continue
            share = f" = {row['passes'] / base['passes']:.2f}×" if base and row is not base else ""
            cells.append(f"{row['robust']}, {row['passes']:,}{share}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--net", nargs="+", choices=WALL, default=list(WALL))
    parser.add_argument("--norm", nargs="+", choices=NORMS, default=list(NORMS))
    parser.add_argument("--version", nargs="+", choices=VERSIONS, default=list(VERSIONS))
    parser.add_argument("--images", type=int, default=50, help="the first of the MNIST test set")
    parser.add_argument("--again", action="store_true", help="measure anew what is stored")
    parser.add_argument("--out", type=Path, default=STORE, help="the file that is read and written instead")
    add_places(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for version in options.version:
        for net in options.net:
            for norm in options.norm:
                rows = {tuple(row[part] for part in KEY): row for row in records.recorded(options.out)}
                key = (net, norm, version, options.images)
                if key in rows and not options.again:
                    continue
                given = problem(net, options.images, options.data_dir, options.weights)
                rows[key] = measured(net, norm, version, given)
                options.out.write_text(
                    "".join(f"{json.dumps(rows[one], ensure_ascii=False)}\n" for one in sorted(rows))
                )
                print(*key, rows[key]["robust"], rows[key]["passes"], flush=True)
    print(table(list(records.recorded(options.out))))


if __name__ == "__main__":
    main()
