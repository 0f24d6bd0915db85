"""AutoAttack's frontier: how many images each version and each other package leaves, for how many passes.

    python -m bench.suite.frontier [--net linf l2] [--norm linf] [--provider quick] [--images 100]

Rows go to bench/results/frontier.jsonl, the table of bench/results/autoattack.md is printed, and
docs/figures/frontier.png is drawn. What is stored already is left alone: delete its rows to measure it anew.
Passes, forward and backward, do not depend on the load of the machine. The folders that FASTADV_PEERS names
hold github.com/fra31/auto-attack, fzjcdt/FastAT_Benchmark, and torchattacks, which the latter imports.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import product
from math import inf
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench import records
from bench.suite.parity import Counting, where
from bench.suite.wall import SYMBOLS
from fastadv.text import in_markdown
from tests.parity import peers
from tests.parity.models import KEPT, KEPT_IMAGES, NETS, ROOT, TRAINED, WALL, add_places, problem
from tests.parity.verdict import judge

OURS = ("screen", "quick", "standard", "strong")
THEIRS = ("auto-attack standard", "CR attack")
PROVIDERS = (*OURS, *THEIRS)
MODELS, NORMS = (*WALL, *KEPT, *TRAINED), ("linf", "l2", "l1")
LACKING = {("CR attack", norm) for norm in ("l2", "l1")}  # which is for Linf
Problem = tuple[nn.Module, Tensor, Tensor]


def theirs(provider: str, model: nn.Module, x: Tensor, y: Tensor, norm: str, radius: float) -> Tensor:
    """What an attack of another package finds."""
    if provider == "auto-attack standard":
        return peers.autoattack(norm).run(model, x, y, radius, version="standard")
    import_module("utils")  # before its attacks, which import each other
    x_adv: Tensor = import_module("attacks").CRAttack(model, eps=radius)(x, y)[0]
    return x_adv.detach()


def measured(net: str, norm: str, provider: str, given: Problem) -> records.Row:
    """One provider on one net, at the radius of the parity table."""
    (model, x, y), radius = given, NETS[net].radii[norm]
    row = {"net": net, "norm": norm, "provider": provider, "radius": radius, "seed": 0, "images": len(x)}
    if provider in OURS:
        threat = fa.threat.THREATS[norm](radius)
        out = fa.attacks.autoattack(model, x, y, threat, version=provider, indicators=False)
        robust, passes = int((~out.success).sum()), int(out.forwards + out.backwards)
        row["costs"] = {name: [cost.samples, cost.broken] for name, cost in out.costs.items()}
    else:
        counting = Counting(model)
        x_adv = theirs(provider, counting, x, y, norm, radius)
        robust = judge(model, x, y, x_adv, norm, radius).distances.count(inf)
        passes = counting.forwards + counting.backwards
    return row | {"robust": robust, "passes": passes, **where()}


def on_nets(rows: Iterable[records.Row]) -> dict[tuple[str, str, int], dict[str, records.Row]]:
    """By net, norm and images, and then by provider, where there is standard to compare with."""
    found: dict[tuple[str, str, int], dict[str, records.Row]] = {}
    for row in rows:
        found.setdefault((row["net"], row["norm"], row["images"]), {})[row["provider"]] = row
    return {place: by_provider for place, by_provider in found.items() if "standard" in by_provider}


def shown(found: Mapping[Any, Mapping[str, records.Row]]) -> list[str]:
    """The providers that have rows, in their order."""
    return [name for name in PROVIDERS if any(name in by_provider for by_provider in found.values())]


def lines(rows: Iterable[records.Row]) -> Iterator[list[str]]:
    """A line for each net and norm, the passes of each provider over those of standard."""
    found = on_nets(rows)
    columns = shown(found)
    yield ["net, threat, images", *columns]
    for (net, norm, images), by_provider in found.items():
        base = by_provider["standard"]
        cells = [f"{net}, {SYMBOLS[norm]} {NETS[net].radii[norm]:.3g}, {images}"]
        for row in map(by_provider.get, columns):
            share = f" = {row['passes'] / base['passes']:.2f}×" if row and row is not base else ""
            cells.append(f"{row['robust']}, {row['passes']:,}{share}" if row else "")
        yield cells


def draw(stored: Iterable[records.Row]) -> None:
    """Draw accuracy above standard against passes: small for each net, large for their mean."""
    from fastadv.evaluation.figures import style

    inks = style.SKY, style.BLUE, style.GREEN, style.PURPLE, style.VERMILION, style.ORANGE
    found = on_nets(stored)
    color_of = dict(zip(PROVIDERS, inks, strict=True))
    colors = {name: color_of[name] for name in shown(found)}
    figure = style.new_figure(7.2, 3.7, "AutoAttack: accuracy left above that of “standard”, by passes")
    style.key(figure, 0.65, 0.45, [(name, "o", color) for name, color in colors.items()])
    for place, norm in enumerate(NORMS[:2]):
        axes = figure.add_axes((0.09 + 0.47 * place, 0.14, 0.42, 0.68))
        style.plain(axes)
        axes.grid(color=style.GRID, linewidth=0.8)
        axes.axhline(0, color=style.FAINT, linewidth=0.8)
        axes.set(xscale="log", xlim=(40, 12_000), xticks=[100, 1000, 10_000])
        axes.set_xticks([], minor=True)
        for provider, color in colors.items():
            points = [
                (
                    row["passes"] / row["images"],
                    100 * (row["robust"] - rows["standard"]["robust"]) / row["images"],
                )
                for (_, own, _), rows in found.items()
                if own == norm and (row := rows.get(provider))
            ]
            for point in points:
                axes.plot(*point, "o", color=color, markersize=3, alpha=0.5)
            if points:
                passes, above = zip(*points, strict=True)
                center = geometric_mean(passes), mean(above)
                axes.plot(*center, "o", color=color, markersize=9)
        axes.set_xlabel(f"{SYMBOLS[norm]}: passes an image", fontsize=9, color=style.INK)
    figure.axes[0].set_ylabel("points above standard", fontsize=9, color=style.INK)
    told = {"command": "python -m bench.suite.frontier", "seed": "0"}
    style.save(figure, ROOT / "docs" / "figures" / "frontier.png", told)


def main() -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--net", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--norm", nargs="+", choices=NORMS, default=NORMS)
    parser.add_argument("--provider", nargs="+", choices=PROVIDERS, default=PROVIDERS)
    parser.add_argument("--images", type=int, default=100, help=f"of each net; at most {KEPT_IMAGES} of some")
    parser.add_argument("--out", type=Path, default=records.RESULTS / "frontier.jsonl")
    add_places(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for provider, net, norm in product(options.provider, options.net, options.norm):
        wanted = {"net": net, "norm": norm, "provider": provider}
        done = any(wanted.items() <= row.items() for row in records.recorded(options.out))
        if not done and norm in NETS[net].radii and (provider, norm) not in LACKING:
            row = measured(
                net, norm, provider, problem(net, options.images, options.data_dir, options.weights)
            )
            with options.out.open("a") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            print(*wanted.values(), row["robust"], row["passes"], flush=True)
    print(in_markdown([*lines(records.recorded(options.out))], names=4))
    draw(records.recorded(options.out))


if __name__ == "__main__":
    main()
