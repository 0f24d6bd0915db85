"""README's table of speed: PGD on four networks by fastadv and by others, on each machine that ran them."""

from collections.abc import Sequence

from bench.page.entries import PGD
from bench.page.numbers import duration
from bench.page.rows import Row, milliseconds
from bench.providers import COMPILED, FROZEN
from bench.records import RESULTS, recorded

Run = dict[str, dict[str, Row]]
LIBRARIES = ("foolbox", "adv-lib", "ART", "cleverhans")
OURS = {"fastadv fp32": "fastadv", FROZEN[0]: "frozen once", FROZEN[1]: "frozen once, bf16"}
HEAD = ("network, steps, images", "torchattacks", "best of four more", "plain loop, compiled", *OURS.values())


def runs(rows: Sequence[Row]) -> list[Run]:
    """The newest run of each machine that has every column: of each problem, the rows by provider.

    Rows of one run have the commit and the machine in common. Rows of several are not compared.
    """
    found: dict[tuple[str, str], Run] = {}
    for row in rows:
        for label, what in PGD.items():
            if row.get("what") == what:
                run = found.setdefault((row["cpu"], row["commit"]), {})
                run.setdefault(label, {})[row["provider"]] = row
    return list({cpu: run for (cpu, _), run in found.items() if _whole(run)}.values())


def _whole(run: Run) -> bool:
    columns = {"torchattacks", COMPILED, *LIBRARIES, *OURS}
    return len(run) == len(PGD) and all(columns <= set(known) for known in run.values())


def line(label: str, known: dict[str, Row]) -> str:
    """One network: the median of each provider and the range of its turns; in bold the fastest in float32."""
    shown = names(known)
    fastest = min(shown[:-1], key=lambda name: median(known[name]))
    cells = []
    for name in shown:
        text = f"{duration(median(known[name]))} ({span(known[name])})"
        of = f", {name}" if name in LIBRARIES else ""
        cells.append((f"**{text}**" if name == fastest else text) + of)
    return f"| {label} | {' | '.join(cells)} |"


def names(known: dict[str, Row]) -> list[str]:
    """The providers of the columns; of the libraries but torchattacks, the fastest."""
    best = min(LIBRARIES, key=lambda name: median(known[name]))
    return ["torchattacks", best, COMPILED, *OURS]


def median(row: Row) -> float:
    """Milliseconds."""
    return milliseconds(row) or float("inf")


def span(row: Row) -> str:
    """The 20th and the 80th percentile of the turns."""
    low, high = (duration(float(row[key])) for key in ("p20_ms", "p80_ms"))
    return f"{low.removesuffix(' ' + high.rpartition(' ')[2])} to {high}"


def stored() -> list[Run]:
    """The runs of bench/results/cpu.jsonl."""
    return runs(list(recorded(RESULTS / "cpu.jsonl")))


def section(runs: Sequence[Run]) -> str:
    """A table for each run, and what it was measured with."""
    parts = []
    for run in runs:
        row = run[next(iter(PGD))]["fastadv fp32"]
        measured = [each for known in run.values() for each in known.values() if "accuracy" in each]
        left = sorted({f"{100 * each['accuracy']:.1f}%" for each in measured})
        ends = "All end at the same" if len(left) == 1 else "They end at different"
        parts += [
            "",
            f"| {' | '.join(HEAD)} |",
            "| --- " * len(HEAD) + "|",
            *(line(label, run[label]) for label in PGD),
            "",
            f"{row['cpu']}, {row['threads']} threads, PyTorch {row['torch']}, {row['date'][:10]}, commit "
            f"{row['commit']}. {ends} robust accuracy: {', '.join(left)}.",
        ]
    return "\n".join((*parts, ""))
