"""Measure the peers and store what they find, with its source, in tests/attacks/parity.json.

    python -m bench.suite.parity [--only fmn ddn] [--variant quick full] [--packages adv-lib] [--again]

The values do not depend on the machine's load, unlike times, which `python -m bench.suite` takes. What is
stored already is left alone unless --again is given.
"""

import argparse
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import torch

from bench.suite.cases import CASES, Case
from bench.suite.models import ROOT, add_places, problem
from bench.suite.outcome import judge
from bench.suite.passes import Counting
from bench.suite.peers import Peer

STORE = ROOT / "tests" / "attacks" / "parity.json"
Figure = dict[str, Any]
KEY = ("case", "model", "variant", "package", "settings")


def stored(path: Path = STORE) -> list[Figure]:
    """The figures of the file; a distance of inf, which JSON does not know, is null there."""
    figures: list[Figure] = json.loads(path.read_text())["figures"] if path.exists() else []
    for figure in figures:
        figure.update({key: inf for key in ("radius", "median") if figure.get(key, 0) is None})
        figure["distances"] = [inf if distance is None else distance for distance in figure["distances"]]
    return figures


def save(figures: Iterable[Figure], path: Path = STORE) -> None:
    """One line for each figure, so that a changed figure is a changed line."""
    lines = sorted(json.dumps(figure, ensure_ascii=False).replace("Infinity", "null") for figure in figures)
    about = "models as in bench/suite/models.py, first MNIST test images, float32, one thread"
    path.write_text(f'{{"about": "{about}",\n"figures": [\n' + ",\n".join(lines) + "\n]}\n")


def measure(
    case: Case, name: str, peers: Iterable[Peer], variant: str, data_dir: Path, weights: Path
) -> Iterable[Figure]:
    """One figure on the model `name` for each of these peers that can be imported."""
    model, x, y = problem(name, case.count(variant), data_dir, weights)
    for peer in peers:
        counting = Counting(model)
        start = time.perf_counter()
        try:
            x_adv = peer.run(counting, x, y, case.radius, **case.budget(variant))
        except ImportError as error:
            print(f"{case.name}: {peer.package} is left out: {error}")
            continue
        outcome = judge(model, x, y, x_adv, case.norm, case.radius)
        yield {
            "case": case.name,
            "model": name,
            "variant": variant,
            "package": peer.package,
            "settings": peer.settings,
            "budget": dict(case.budget(variant)),
            "version": peer.version,
            "norm": case.norm,
            "radius": case.radius,
            "images": len(x),
            **outcome.figures(case.radius),
            "forwards": counting.forwards,
            "backwards": counting.backwards,
            "seconds_on_a_busy_machine": round(time.perf_counter() - start, 2),
            "date": datetime.now(UTC).date().isoformat(),
            "distances": outcome.distances,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="cases whose names begin so")
    parser.add_argument("--variant", nargs="+", default=["quick", "full"], choices=["quick", "full"])
    parser.add_argument("--packages", nargs="+", help="peers from these packages alone")
    parser.add_argument("--again", action="store_true", help="measure what is stored already, too")
    parser.add_argument("--store", type=Path, default=STORE, help="the file that is read and written")
    add_places(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for variant, case in product(options.variant, CASES):
        chosen = not options.only or case.name.startswith(tuple(options.only))
        for name in case.stored if chosen and case.count(variant) else ():
            done = {tuple(figure[key] for key in KEY) for figure in stored(options.store)}
            peers = [
                peer
                for peer in case.peers
                if options.again or (case.name, name, variant, peer.package, peer.settings) not in done
                if not options.packages or peer.package in options.packages
            ]
            for figure in measure(case, name, peers, variant, options.data_dir, options.weights):
                key = tuple(figure[key] for key in KEY)
                others = [f for f in stored(options.store) if tuple(f[k] for k in KEY) != key]
                save([*others, figure], options.store)
                print({k: v for k, v in figure.items() if k != "distances"}, flush=True)


if __name__ == "__main__":
    main()
