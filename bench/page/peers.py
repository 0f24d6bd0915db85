"""README's table of speed: PGD on four networks by fastadv and by others, on each machine that ran them."""

from collections.abc import Sequence

from bench.page.entries import PGD
from bench.page.numbers import duration
from bench.page.rows import Row, milliseconds
from bench.providers import FROZEN

LIBRARIES = ("foolbox", "adv-lib", "ART", "cleverhans")
COMPILED = "torch.compile"
HEAD = ("network, steps, images", "torchattacks", "best of four more", "plain loop, compiled")
OURS = {"fastadv fp32": "fastadv", FROZEN[0]: "frozen once", FROZEN[1]: "frozen once, bf16"}


def runs(rows: Sequence[Row]) -> list[dict[str, dict[str, Row]]]:
    """The newest run of each machine that holds every column: for each problem, the rows by provider.

    Rows of one run have the commit and the machine in common; only these are shown beside each other.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        for label, what in PGD.items():
            if row.get("what") == what:
                run = found.setdefault((row["cpu"], row["commit"]), {})
                run.setdefault(label, {})[row["provider"]] = row
    whole = {
        key: run for key, run in found.items() if len(run) == len(PGD) and all(map(_whole, run.values()))
    }
    return list({cpu: run for (cpu, _), run in whole.items()}.values())


def _whole(known: dict[str, Row]) -> bool:
    return {"torchattacks", COMPILED, *LIBRARIES, *OURS} <= set(known)


def line(label: str, known: dict[str, Row]) -> str:
    """One network: the median of each provider, the range of its turns, and the fastest in float32 in bold."""
    best = min(LIBRARIES, key=lambda name: milliseconds(known[name]) or float("inf"))
    shown = ["torchattacks", best, COMPILED, *OURS]
    fastest = min(shown[:-1], key=lambda name: milliseconds(known[name]) or float("inf"))
    cells = []
    for name in shown:
        row = known[name]
        text = f"{duration(milliseconds(row) or 0)} ({span(row)})"
        cells.append((f"**{text}**" if name == fastest else text) + (f", {name}" if name == best else ""))
    return f"| {label} | {' | '.join(cells)} |"


def span(row: Row) -> str:
    """The 20th and the 80th percentile of the turns."""
    return f"{duration(float(row['p20_ms']))} to {duration(float(row['p80_ms']))}"


def section(rows: Sequence[Row]) -> str:
    """A table for each machine, and what it was measured with."""
    parts = []
    for run in runs(rows):
        row = next(iter(run.values()))["fastadv fp32"]
        left = {
            f"{100 * each['accuracy']:.1f}%"
            for known in run.values()
            for each in known.values()
            if "accuracy" in each
        }
        found = (
            "Every column ends at the same robust accuracy" if len(left) == 1 else "Robust accuracies differ"
        )
        parts += [
            "",
            f"| {' | '.join((*HEAD, *OURS.values()))} |",
            "| --- " * (len(HEAD) + len(OURS)) + "|",
            *(line(label, run[label]) for label in PGD),
            "",
            f"{row['cpu']}, {row['threads']} threads, PyTorch {row['torch']}, {row['date'][:10]}, commit "
            f"{row['commit']}. {found} ({', '.join(sorted(left))}).",
        ]
    return "\n".join((*parts, "", ""))
