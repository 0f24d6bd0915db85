"""Write docs/parity.md and bench/results/parity.md from the rows of bench/results/parity.jsonl.

    python -m bench.suite.wall

The first page says who is worse, the second has every figure. A test demands that both show the stored rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import inf

from tests.parity.cases import ALONE
from tests.parity.models import DENSE, KEPT, NETS, ROOT, WALL
from tests.parity.store import STORES, Row, stored
from tests.parity.verdict import Line, compared, figure, passes

PAGE, TABLES = ROOT / "docs" / "parity.md", ROOT / "bench" / "results" / "parity.md"
SYMBOLS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
COLUMNS = (*WALL, *KEPT)
ABOUT_NETS = {
    "linf": "trained at L∞ 0.3",
    "l2": "trained at L2 2, with BatchNorm",
    "saturated": "the first with logits × 200: in float32 cross-entropy has no gradient",
    "quantized": "the second with input rounded to 1/16 and activations to 1/4, gradients straight through",
    "standard": "undefended, with BatchNorm",
    "mixer": "MLP-Mixer with LayerNorm and GELU, trained by TRADES at L∞ 0.2",
    "gnres": "pre-activation ResNet with GroupNorm and SiLU, trained on CIFAR-10 at L∞ 8/255",
    "sp": "with softplus, trained at L2 2 with weight decay 3 and labels smoothed by 0.3",
    "segments": "a class for each pixel, the digit within four pixels of it or none, trained at L∞ 0.1",
}
ABOUT = """# Parity: every attack next to the best other implementation

Each attack is compared with every other implementation that could be run, on [several
networks](../bench/results/parity.md) and the same 100 MNIST test images, in float32; nothing was tuned on
mixer, gnres and sp, with 30 images each. Both sides may spend the same number of passes, forward and
backward together. Where an attack draws random numbers, its robust accuracy is the mean of 3 to 48 runs.

Ours is worse if its median distance is over 1% larger, or if it leaves over one image more; of a class for
each pixel, over one pixel of a hundred."""
WRITTEN = """`make parity` measures, and `python -m bench.suite.wall` writes this page and [every
figure](../bench/results/parity.md). An older comparison, [sample by
sample](../bench/results/conformance.md), also says which weaknesses it would notice."""
WHY = """Why: two versions of sigma_zero by its authors differ by as much as ours does from either, and the
start of APGD in L1 decides about three images of 100. On the networks with 30 images, one image or one
random draw can decide: salt-and-pepper is one run, and adv-lib's search ends at 12.5, a radius of its
grid."""
HEAD = """# Parity: every figure

`python -m bench.suite.wall` writes this page from `parity.jsonl`. [Parity](../../docs/parity.md) explains
the comparison. Each cell is ours / best of the others. Bold: ours is worse. A plus: ours spent over 5%
more passes, because the best of the others stopped early. APGD in L1 has the most runs: its random start
decides about three images of 100, although its steps equal those of the authors' code up to rounding."""
BALLS = """A minimum-norm attack of ours gets the radius; of the others, the points within it count. Noise
attacks get six times the radius in L2 and twice the radius in L∞."""


def number(line: Line, row: Row | None) -> str:
    if row is None or "error" in row:
        return "-"
    if line.ours["radius"] < inf:
        return f"{100 * figure(row):.0f}%"
    return "∞" if figure(row) == inf else f"{figure(row):.3g}"


def cell(line: Line | None) -> str:
    """Ours / best of the others; bold where ours is worse, with a + where ours spent more passes."""
    if line is None:
        return ""
    text = f"{number(line, line.ours)} / {number(line, line.rival)}" + "+" * line.dearer
    return f"**{text}**" if line.worse else text


def table(lines: Iterable[Line], columns: Sequence[str] = COLUMNS) -> Iterator[str]:
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        case, norm, radius = (line.ours[part] for part in ("case", "norm", "radius"))
        name = case.removesuffix(f"-{radius:g}").removesuffix(f"-{norm}")
        rows.setdefault(f"{name}, {SYMBOLS[norm]}", {})[line.ours["net"]] = line
    yield f"| attack | {' | '.join(columns)} | budget | compared with |"
    yield "| --- " * (len(columns) + 3) + "|"
    for name, by_net in sorted(rows.items()):
        first = next(iter(by_net.values())).ours
        budget = ", ".join(f"{value} {word}" for word, value in first["budget"].items())
        packages = sorted({row["package"] for line in by_net.values() for row in line.peers})
        cells = [name, *(cell(by_net.get(net)) for net in columns), budget, ", ".join(packages)]
        yield f"| {' | '.join(cells)} |"


def behind(lines: Iterable[Line]) -> Iterator[str]:
    yield "| attack | net | radius | here | best | its package | passes here | passes there |"
    yield "| --- " * 8 + "|"
    for line in lines:
        head, rival = line.ours, line.rival
        cells = [head["case"], head["net"], "∞" if head["radius"] == inf else f"{head['radius']:g}"]
        cells += [number(line, line.ours), number(line, rival)]
        cells += [f"{rival['package']} {rival['settings']}" if rival else "-"]
        cells += [f"{passes(row):.0f}" if row and "error" not in row else "-" for row in (line.ours, rival)]
        yield f"| {' | '.join(cells)} |"


def versions(rows: Sequence[Row]) -> str:
    found = sorted({(row["package"], row["version"]) for row in rows})
    return ", ".join(f"{package} {version}" for package, version in found)


def nets() -> Iterator[str]:
    yield "| net | what it is | radii |"
    yield "| --- | --- | --- |"
    for net in (*COLUMNS, *DENSE):
        said = ", ".join(f"{SYMBOLS[norm]} {radius:.3g}" for norm, radius in NETS[net].radii.items())
        yield f"| {net} | {ABOUT_NETS[net]} | {said} |"


def page(rows: Sequence[Row]) -> str:
    """The page of the docs: how many are worse, and which."""
    lines = compared(rows)
    worse = [line for line in lines if line.worse]
    worse.sort(key=lambda line: (line.ours["case"], line.ours["net"]))
    parts = [
        ABOUT,
        f"**{len(lines)} comparisons: {len(lines) - len(worse)} no worse, {len(worse)} worse.** {WRITTEN}",
        "## Where ours is worse",
        "\n".join(behind(worse)) + "\n\n" + WHY if worse else "Nowhere.",
        "## Not compared",
        "\n".join(
            f"- {', '.join(f'`{a}`' for (a, _), _ in on)}{f' in {SYMBOLS[norm]}' if norm else ''}: {why}."
            for (norm, why), on in groupby(ALONE.items(), lambda item: (item[0][1], item[1]))
        ),
    ]
    return "\n\n".join(parts) + "\n"


def tables(rows: Sequence[Row]) -> str:
    lines = compared(rows)
    labels = [line for line in lines if line.ours["net"] not in DENSE]
    dates = sorted(row["date"] for row in rows if "date" in row)
    cpus = ", ".join(sorted({row["cpu"] for row in rows if "cpu" in row}))
    torch = ", ".join(sorted({row["torch"] for row in rows if "torch" in row}))
    measured = f"{dates[0]} to {dates[-1]} on {cpus}, one thread, PyTorch {torch}"
    parts = [
        HEAD,
        "\n".join(nets()),
        f"Measured {measured}: {versions(rows)}.",
        "## Median distance",
        "\n".join(table(line for line in labels if line.ours["radius"] == inf)),
        "## Robust accuracy",
        BALLS,
        "\n".join(table(line for line in labels if line.ours["radius"] < inf)),
        "## Share of pixels that stay right",
        "\n".join(table([line for line in lines if line.ours["net"] in DENSE], tuple(DENSE))),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    rows = stored(STORES["full"])
    PAGE.write_text(page(rows))
    TABLES.write_text(tables(rows))


if __name__ == "__main__":
    main()
