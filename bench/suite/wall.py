"""Write docs/parity.md from the rows of bench/results/parity.jsonl.

    python -m bench.suite.wall

A test demands that the page shows the stored rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import inf

from tests.parity.cases import ALONE
from tests.parity.models import KEPT, NETS, ROOT, WALL
from tests.parity.store import STORES, Row, stored
from tests.parity.verdict import Line, compared, figure, passes

PAGE = ROOT / "docs" / "parity.md"
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
}
ABOUT = """# Parity: every attack next to the best other implementation

This page is written by `python -m bench.suite.wall` from `bench/results/parity.jsonl`, which `make parity`
fills.

Each attack is compared with every other implementation of it that could be run, on five networks and the
same 100 MNIST test images, in float32. Three more networks, on which nothing was tuned, are of low
confidence; there the first 30 test images that the network gets right are attacked, in a third of the runs.
Forward and backward passes are counted together, and both sides may spend the same number. A plus marks
rows in which ours spent over 5% more passes than the best of the others, because that one stopped early.
Ours is worse, and bold, if its median distance is more than 1% larger, or if more than one image more
holds. Each package uses its own step sizes. Where random numbers decide, robust accuracy is the mean of
several runs on either side with different seeds: three to 48, as the images of a row show. APGD in L1 has
the most, because its random start decides about three images of 100, although its steps equal those of the
authors' code up to rounding."""
WHY = """Why: of noise, the others draw all of it at the radius. Ours searches for the smallest noise,
independently of the radius, and so spends some of its queries on larger noise. On the networks kept back
30 images count, so that one image or one draw can decide: sigma_zero is level with one of its two peers;
salt-and-pepper is one run of random draws; the search of adv-lib ends at 12.5, a radius of its grid."""
BALLS = """For a minimum-norm attack, ours is given the radius; of the others, the points within it count.
Noise attacks get six times the radius in L2 and twice the radius in L∞."""


def number(line: Line, row: Row | None) -> str:
    """A median with three digits, or robust accuracy in percent."""
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


def table(lines: Iterable[Line]) -> Iterator[str]:
    """A row for each attack and norm, a column for each net."""
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        case, norm, radius = (line.ours[part] for part in ("case", "norm", "radius"))
        name = case.removesuffix(f"-{radius:g}").removesuffix(f"-{norm}")
        rows.setdefault(f"{name}, {SYMBOLS[norm]}", {})[line.ours["net"]] = line
    yield f"| attack | {' | '.join(COLUMNS)} | budget | compared with |"
    yield "| --- " * (len(COLUMNS) + 3) + "|"
    for name, by_net in sorted(rows.items()):
        first = next(iter(by_net.values())).ours
        budget = ", ".join(f"{value} {word}" for word, value in first["budget"].items())
        packages = sorted({row["package"] for line in by_net.values() for row in line.peers})
        cells = [name, *(cell(by_net.get(net)) for net in COLUMNS), budget, ", ".join(packages)]
        yield f"| {' | '.join(cells)} |"


def behind(lines: Iterable[Line]) -> Iterator[str]:
    """The lines where ours is worse, each in full."""
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
    """What was run: packages with their versions, in words."""
    found = sorted({(row["package"], row["version"]) for row in rows})
    return ", ".join(f"{package} {version}" for package, version in found)


def nets() -> Iterator[str]:
    """What the nets are, and the radii on each."""
    yield "| net | what it is | radii |"
    yield "| --- | --- | --- |"
    for net in COLUMNS:
        said = ", ".join(f"{SYMBOLS[norm]} {radius:.3g}" for norm, radius in NETS[net].radii.items())
        yield f"| {net} | {ABOUT_NETS[net]} | {said} |"


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    lines = compared(rows)
    worse = sorted(
        (line for line in lines if line.worse), key=lambda line: (line.ours["case"], line.ours["net"])
    )
    dates = sorted(row["date"] for row in rows if "date" in row)
    cpus = ", ".join(sorted({row["cpu"] for row in rows if "cpu" in row}))
    torch = ", ".join(sorted({row["torch"] for row in rows if "torch" in row}))
    summary = f"{len(lines)} comparisons: {len(lines) - len(worse)} no worse, {len(worse)} worse."
    measured = f"{dates[0]} to {dates[-1]} on {cpus}, one thread, PyTorch {torch}"
    parts = [
        ABOUT,
        f"**{summary}** Measured {measured}: {versions(rows)}.",
        "\n".join(nets()),
        "## Where ours is worse",
        "\n".join(behind(worse)) + "\n\n" + WHY if worse else "Nowhere.",
        "## Median distance, here / best of the others",
        "\n".join(table(line for line in lines if line.ours["radius"] == inf)),
        "## Robust accuracy, here / best of the others",
        BALLS,
        "\n".join(table(line for line in lines if line.ours["radius"] < inf)),
        "## Not compared",
        "\n".join(
            f"- `{attack}`{f' in {SYMBOLS[norm]}' if norm else ''}: {why}."
            for (attack, norm), why in ALONE.items()
        ),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    PAGE.write_text(page(stored(STORES["full"])))


if __name__ == "__main__":
    main()
