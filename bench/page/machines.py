"""The rows of PGD against the best of all peers, by machine; several runs of one commit count as one.

A machine has the rows of its newest commit that has all processes of all nets: medians over the runs, and the
least 20th and the greatest 80th percentile of their turns.
"""

from collections.abc import Iterable, Sequence
from statistics import median

from bench.anchor.ways import PEERS, WAYS, Way
from bench.page.entries import PGD
from bench.page.rows import Row
from bench.records import RESULTS, recorded

Machine = dict[str, dict[Way, Row]]  # by net
OVER_RUNS = {"p20": min, "p80": max}  # by the percentile that a figure's name holds; else the median


def stored() -> list[Machine]:
    """The machines of bench/results/anchor_cpu.jsonl, the one measured last at the end."""
    return machines(recorded(RESULTS / "anchor_cpu.jsonl"))


def machines(rows: Iterable[Row]) -> list[Machine]:
    """Each machine that has all rows, by its processor and its threads, the one measured last at the end."""
    labels = {what: label for label, what in PGD.items()}
    found: dict[tuple[str, int, str], dict[str, dict[Way, list[Row]]]] = {}
    for row in sorted(rows, key=lambda row: row["date"]):
        if label := labels.get(row["what"]):
            key = row["cpu"], row["threads"], row["commit"]
            found[key] = found.pop(key, {})  # to the end, as the newest
            found[key].setdefault(label, {}).setdefault(Way(row["provider"], row["pages_kept"]), []).append(
                row
            )
    newest: dict[tuple[str, int], Machine] = {}
    for (*machine, _), nets in found.items():
        if all(set(WAYS) <= set(nets.get(label, ())) for label in PGD):
            cpu, threads = machine
            newest.pop((cpu, threads), None)
            newest[cpu, threads] = {label: {way: merged(nets[label][way]) for way in WAYS} for label in PGD}
    return list(newest.values())


def merged(runs: Sequence[Row]) -> Row:
    """One row for several runs, with the days of all."""
    row = dict(runs[-1], days=sorted({run["date"][:10] for run in runs}))
    for key, value in row.items():
        if isinstance(value, float) or key == "faults":
            over = next((take for name, take in OVER_RUNS.items() if name in key), median)
            row[key] = over([run[key] for run in runs])
    return row


def best(known: dict[Way, Row]) -> Way:
    """The peer whose median is the least."""
    return min((way for way in known if way.provider in PEERS), key=lambda way: float(known[way]["p50_ms"]))


def rows(machine: Machine) -> list[Row]:
    return [row for known in machine.values() for row in known.values()]
